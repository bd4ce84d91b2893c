"""Covering parts of an image and watching the scores: one sweep of a window over every image, for all who ask."""

from auditkit.covers.fills import FILLS, Fill, Filling, filling
from auditkit.covers.maps import pixel_map, zeiler_map
from auditkit.covers.sweep import QUICK_LOGITS, CoverSweep, cover_sweep
from auditkit.covers.windows import Windows

__all__ = [
    "FILLS",
    "QUICK_LOGITS",
    "CoverSweep",
    "Fill",
    "Filling",
    "Windows",
    "cover_sweep",
    "filling",
    "pixel_map",
    "zeiler_map",
]
