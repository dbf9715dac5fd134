"""Metrics on metric, oriented 3D boxes."""
