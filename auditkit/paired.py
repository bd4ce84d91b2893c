"""How much a number changed between two runs on the same images: intervals and tests of paired differences."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from auditkit.stats import CONFIDENCE, Estimate, exact_mcnemar, mean, median

__all__ = ["PAIRED_SHARE", "holm", "paired_mean", "paired_median", "paired_share", "sign_test"]

PAIRED_SHARE = "paired score interval"


def paired_share(lost: int, gained: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate how much a share fell between two runs on the same `n` images: positive where it fell.

    `lost` images counted in the first run only, `gained` in the second only. The interval is Tango's (1998), from the
    score test of a difference between paired shares, with one image taken off its statistic for continuity: by full
    enumeration it then errs at each end at most half as often as `1 - confidence` says, where the plain interval errs
    up to a quarter more often than that (tests/test_paired.py).

    Raises:
        ValueError: the counts do not fit together.
    """
    if min(lost, gained) < 0 or n <= 0 or lost + gained > n:
        raise ValueError(f"a change needs lost + gained <= n and n > 0, not {lost}, {gained} and {n}")
    z = float(special.ndtri((1 + confidence) / 2))
    return Estimate(
        value=(lost - gained) / n,
        low=-_largest(gained, lost, n, z),
        high=_largest(lost, gained, n, z),
        n=n,
        method=PAIRED_SHARE,
    )


def _largest(lost: int, gained: int, n: int, z: float) -> float:
    """Return the largest difference that the score test does not rule out."""

    def excess(difference: float) -> float:
        return _score(lost, gained, n, difference) + z

    nearest, farthest = (lost - gained) / n, 1 - 1e-12
    if nearest >= farthest or excess(farthest) >= 0:
        return 1.0
    return float(optimize.brentq(excess, nearest, farthest))


def _score(lost: int, gained: int, n: int, difference: float) -> float:
    """Return the score statistic of a difference that is at least the one seen."""
    # The share of `gained` that is likeliest under this difference solves 2n q^2 + b q + c = 0.
    b = -lost - gained + (2 * n - lost + gained) * difference
    c = -gained * difference * (1 - difference)
    gained_share = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    variance = n * (2 * gained_share + difference * (1 - difference))
    shortfall = min(lost - gained - n * difference + 1, 0.0)
    return shortfall / math.sqrt(variance) if shortfall else 0.0


def paired_mean(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> Estimate:
    """Estimate how much a mean fell from `first` (N,) to `second` (N,), from the differences of each image."""
    return mean(_differences(first, second))


def paired_median(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> Estimate:
    """Estimate the median of how much the values fell from `first` (N,) to `second` (N,), image by image."""
    return median(_differences(first, second))


def _differences(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    return np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)


def sign_test(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> float:
    """Return the two-sided p-value of as many falls as rises: exact, ties left out; of shares it is McNemar's test."""
    differences = _differences(first, second)
    return exact_mcnemar(int((differences > 0).sum()), int((differences < 0).sum()))


def holm(p_values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return p-values (N,) that hold for all N questions together (Holm 1979)."""
    n = len(p_values)
    order = np.argsort(p_values, kind="stable")
    stepped = np.minimum(np.maximum.accumulate(p_values[order] * (n - np.arange(n))), 1.0)
    adjusted = np.empty(n, dtype=np.float64)
    adjusted[order] = stepped
    return adjusted
