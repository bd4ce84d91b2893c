"""Traffic signs drawn by code: shapes, strokes and procedural scenes instead of fonts and photographs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from auditkit.demo.camera import photograph
from auditkit.demo.canvas import SIDE
from auditkit.demo.faces import FACES

__all__ = ["CLASS_NAMES", "SIDE", "SignImages", "render_signs"]

CLASS_NAMES: tuple[str, ...] = tuple(FACES)
"""The classes' names; a label is a position in this tuple."""


@dataclass(frozen=True)
class SignImages:
    """Rendered signs.

    Attributes:
        images: RGB pixels, uint8 (N, 32, 32, 3) in 0..255.
        labels: Indices into `CLASS_NAMES`, int64 (N,).
        masks: True where the pixel shows the sign, bool (N, 32, 32).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]


def render_signs(count: int, seed: int) -> SignImages:
    """Renders `count` signs, the classes in turn; image i depends on `seed` and i alone.

    Args:
        count: How many images, 0 or more.
        seed: Any integer from 0.
    """
    faces = [draw() for draw in FACES.values()]
    images = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
    masks = np.empty((count, SIDE, SIDE), dtype=np.bool_)
    for index in range(count):
        key = np.random.SeedSequence(seed, spawn_key=(index,))
        rng = np.random.Generator(np.random.Philox(key))
        images[index], masks[index] = photograph(faces[index % len(faces)], rng)
    return SignImages(images, np.arange(count, dtype=np.int64) % len(faces), masks)
