"""Which images a check may learn from, and on which it is judged: decided for each image from its name and the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["is_held_out"]

_TRAINING_SHARE = 0.5
_MOST_TRAINING_IMAGES = 1000
# They are in memory all at once: 668 images of 3x224x224. Of larger images that would soon be too few to learn from.
_MOST_TRAINING_BYTES = 384 << 20
_FEWEST_OF_LARGE = 32


def is_held_out(ids: Sequence[str], seed: int, n: int, image_bytes: int = 0) -> npt.NDArray[np.bool_]:
    """Return bool (len(ids),): True for the images to judge on, False for those to learn from.

    About half of a data set of `n` images is learned from, and at most about 1000 images, or as many as fill 384 MiB,
    an image having `image_bytes`; but for the half, 32 images are never too many. Neither the order of the images nor
    the check changes the split, so checks can be compared.
    """
    most = _MOST_TRAINING_IMAGES
    if image_bytes:
        most = min(most, max(_FEWEST_OF_LARGE, _MOST_TRAINING_BYTES // image_bytes))
    share = min(_TRAINING_SHARE, most / max(n, 1))
    return np.array([_draw(seed, name) >= share for name in ids], dtype=bool)


def _draw(seed: int, name: str) -> float:
    digest = hashlib.sha256(f"{seed}\0split\0{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / float(2**56)
