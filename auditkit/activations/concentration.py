"""How few units carry the activation of a layer, image by image: over-represented activations."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["effective_share", "top_share"]

Floats = npt.NDArray[np.float64]


def top_share(mass: Floats, share: float) -> Floats:
    """Return (N,): what part of all mass (N, C), not negative, its largest `share` of the units carry, one at least.

    NaN where there is no mass at all.
    """
    units = mass.shape[1]
    count = max(1, math.ceil(share * units))
    if count == 1:
        return _ratio(mass.max(1), mass.sum(1))
    largest = np.partition(mass, units - count, axis=1)[:, units - count :]
    # Sorted, for the order in a partition depends on chance, and the sum on the order.
    return _ratio(np.sort(largest, axis=1).sum(1), mass.sum(1))


def effective_share(mass: Floats) -> Floats:
    """Return (N,): (sum of a)^2 / (C times the sum of a^2) of mass a (N, C): 1 if all units carry the same, 1/C if one.

    NaN where there is no mass at all. The number before it is divided by C is called the participation ratio.
    """
    return _ratio(mass.sum(1) ** 2, mass.shape[1] * (mass * mass).sum(1))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
