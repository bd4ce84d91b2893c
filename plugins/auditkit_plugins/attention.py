"""How far two maps of one image are apart: pure functions of the two, which no other image can change."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["centre", "overlap", "shift"]

Heat = npt.NDArray[np.float64]


def overlap(first: Heat, second: Heat) -> float:
    """Return what two maps (H, W), not negative, have in common once each sums to 1: 1 the same, 0 nothing.

    It is the sum of the smaller values; 1 less it is the total variation distance of the two distributions.
    """
    return float(np.minimum(first / first.sum(), second / second.sum()).sum())


def centre(heat: Heat) -> tuple[float, float]:
    """Return row and column of the centre of mass of a map (H, W), not negative, not zero everywhere."""
    rows, columns = (np.arange(side, dtype=np.float64) for side in heat.shape)
    total = heat.sum()
    return float((heat.sum(1) * rows).sum() / total), float((heat.sum(0) * columns).sum() / total)


def shift(first: Heat, second: Heat) -> float:
    """Return how far apart the centres of mass of two maps (H, W) lie, as a share of the image's diagonal."""
    (top, left), (bottom, right) = centre(first), centre(second)
    return float(np.hypot(bottom - top, right - left) / np.hypot(*first.shape))
