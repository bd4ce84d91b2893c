"""How much of a map lies on the object: pure functions of one map and one mask, which no other image can change.

Each has a value that says nothing: what a map has that is the same everywhere. For the shares this is the share of
the image that the object covers; for the ratio it is 1. Pixels with equal values count as if their order were drawn by
lot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Localisation", "localise", "mass_ratio", "pointing", "relevance_mass", "relevance_rank"]

Heat = npt.NDArray[np.float64]
Object = npt.NDArray[np.bool_]


def relevance_mass(heat: Heat, mask: Object) -> float:
    """Return the share of a map's sum that lies on the object: relevance mass accuracy.

    Args:
        heat: (H, W), not negative, not zero everywhere.
        mask: (H, W), true on the object.
    """
    return float(heat[mask].sum() / heat.sum())


def mass_ratio(heat: Heat, mask: Object) -> float:
    """Return `relevance_mass` as a multiple of the share of the image that the object covers, which is not 0."""
    return relevance_mass(heat, mask) / float(mask.mean())


def relevance_rank(heat: Heat, mask: Object) -> float:
    """Return the share of the strongest pixels that lie on the object, as many as it has: relevance rank accuracy."""
    size = int(mask.sum())
    weakest = np.partition(heat.ravel(), heat.size - size)[heat.size - size]
    above, level = heat > weakest, heat == weakest
    left = size - int(above.sum())
    return float((int((above & mask).sum()) + left * float(mask[level].mean())) / size)


def pointing(heat: Heat, mask: Object) -> float:
    """Return 1 if the strongest pixel lies on the object and 0 if not; of several, the share of those that do."""
    return float(mask[heat == heat.max()].mean())


@dataclass(frozen=True)
class Localisation:
    """Where N maps lie; NaN for a map that is zero, and where the object is not known or fills the image."""

    measured: Object
    """(N,)."""
    share: Heat
    """(N,): the share of the image that the object covers; NaN where it is not known or fills the image."""
    mass: Heat
    rank: Heat
    ratio: Heat
    pointing: Heat


def localise(maps: npt.NDArray[np.float32], masks: Object) -> Localisation:
    """Return where maps (N, H, W), not negative, lie beside masks (N, H, W); an empty mask is an unknown object."""
    covered = masks.reshape(len(masks), -1).mean(axis=1)
    known = (covered > 0) & (covered < 1)
    measured = known & maps.reshape(len(maps), -1).any(axis=1)

    def each(measure: Callable[[Heat, Object], float]) -> Heat:
        values = np.full(len(maps), np.nan)
        for row in measured.nonzero()[0].tolist():
            values[row] = measure(maps[row].astype(np.float64), masks[row])
        return values

    return Localisation(
        measured=measured,
        share=np.where(known, covered, np.nan),
        mass=each(relevance_mass),
        rank=each(relevance_rank),
        ratio=each(mass_ratio),
        pointing=each(pointing),
    )
