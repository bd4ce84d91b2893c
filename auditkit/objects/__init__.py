"""Detectors of objects: what they say, how their answers are read, and how these fare against annotated objects."""
