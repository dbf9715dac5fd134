"""Pixels, cameras and words in; metric boxes out."""
