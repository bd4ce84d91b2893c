"""Checks of detectors of objects."""
