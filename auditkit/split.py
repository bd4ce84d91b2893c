"""Which images a check may learn from, and on which it is judged: decided for each image from its name and the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["is_held_out"]

_TRAINING_SHARE = 0.5
_MOST_TRAINING_IMAGES = 1000


def is_held_out(ids: Sequence[str], seed: int, n: int) -> npt.NDArray[np.bool_]:
    """Return bool (len(ids),): True for the images to judge on, False for those to learn from.

    About half of a data set of `n` images is learned from, and about 1000 images at most. Neither the order of the
    images nor the check changes the split, so checks can be compared.
    """
    share = min(_TRAINING_SHARE, _MOST_TRAINING_IMAGES / max(n, 1))
    return np.array([_draw(seed, name) >= share for name in ids], dtype=bool)


def _draw(seed: int, name: str) -> float:
    digest = hashlib.sha256(f"{seed}\0split\0{name}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / float(2**56)
