"""LLMI3D."""
