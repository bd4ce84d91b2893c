"""The canvas that scenes are painted on, and what more than one part of a scene needs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["CANVAS", "SIDE", "SUPERSAMPLING", "Colour", "Floats", "Point", "noise", "over"]

SIDE = 32
"""Height and width of a rendered image in pixels."""

SUPERSAMPLING = 4
CANVAS = SIDE * SUPERSAMPLING
"""Height and width of the canvas: a scene is painted larger, and reduced at the end."""

Colour = tuple[int, int, int]
Point = tuple[float, float]
Floats = NDArray[np.floating[Any]]


def over(below: Floats, above: Floats, alpha: Floats) -> Floats:
    """Return colours (128, 128, 3) with others laid over them at opacity `alpha` (128, 128)."""
    return below + alpha[..., None] * (above - below)


def noise(rng: np.random.Generator, cells: int) -> Floats:
    """Smooth noise (128, 128) from 0 to 1 whose blobs are a canvas divided by `cells` wide."""
    grid = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(grid.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)).clip(0, 1)
