"""Estimates with intervals: the only statistics that an audit reports."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy import special

__all__ = ["CONFIDENCE", "Estimate", "exact_mcnemar", "images_to_decide", "mean", "median", "proportion"]

CONFIDENCE = 0.95
_MOST_IMAGES = 10_000_000


class Estimate(BaseModel):
    """A value, the interval that holds the true one at the stated confidence, and the number of images behind it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float
    low: float
    high: float
    n: int
    method: str

    def __str__(self) -> str:
        """Return value, interval and number of images on one line."""
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g}, n={self.n})"


def proportion(successes: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate a share with the exact binomial interval (Clopper and Pearson 1934).

    The exact interval is wider than Wilson's, but it keeps its confidence at every `n`: a gate that rests on it
    passes by luck no more often than it says.

    Raises:
        ValueError: `n` is not positive or `successes` lies outside 0..n.
    """
    if not 0 <= successes <= n or n <= 0:
        raise ValueError(f"a share needs 0 <= successes <= n and n > 0, not {successes} of {n}")
    tail = (1 - confidence) / 2
    low = special.betaincinv(successes, n - successes + 1, tail) if successes > 0 else 0.0
    high = special.betaincinv(successes + 1, n - successes, 1 - tail) if successes < n else 1.0
    return Estimate(value=successes / n, low=float(low), high=float(high), n=n, method="Clopper-Pearson")


def mean(values: npt.NDArray[np.floating], confidence: float = CONFIDENCE) -> Estimate:
    """Estimate a mean of `values` (N,) with Student's interval; a single value gets an interval of no width.

    Raises:
        ValueError: `values` is empty or not finite.
    """
    # Sorted, so that not even a last digit depends on the order of the images.
    values = np.sort(np.asarray(values, dtype=np.float64))
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError("a mean needs at least one value, and finite ones")
    centre = float(values.mean())
    if values.size == 1:
        return Estimate(value=centre, low=centre, high=centre, n=1, method="single value")
    error = float(values.std(ddof=1)) / math.sqrt(values.size)
    half = float(special.stdtrit(values.size - 1, (1 + confidence) / 2)) * error
    return Estimate(value=centre, low=centre - half, high=centre + half, n=int(values.size), method="Student t")


def median(values: npt.NDArray[np.floating], confidence: float = CONFIDENCE) -> Estimate:
    """Estimate a median of `values` (N,) with the exact interval between two of them, whatever their distribution.

    The r-th smallest and the r-th largest value enclose the true median unless fewer than r of N fair coins fall one
    way (David and Nagaraja 2003, section 7.1); r is the largest that keeps the confidence. Fewer than six values have
    no such r at 95 %: their interval reaches from the smallest to the largest, which holds the median less often than
    that (15 times of 16 for five values, never for a single one), and `method` says so.

    Raises:
        ValueError: `values` is empty or not finite.
    """
    values = np.sort(np.asarray(values, dtype=np.float64))
    n = int(values.size)
    if n == 0 or not np.isfinite(values).all():
        raise ValueError("a median needs at least one value, and finite ones")
    tail = (1 - confidence) / 2
    left_out = int(np.searchsorted(special.bdtr(np.arange(n // 2), n, 0.5), tail, side="right"))
    first = max(left_out - 1, 0)
    low, high = float(values[first]), float(values[n - 1 - first])
    method = "order statistics" if left_out else "smallest to largest value"
    return Estimate(value=float(np.median(values)), low=low, high=high, n=n, method=method)


def exact_mcnemar(lost: int, gained: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: that of as many fair coins (McNemar 1947)."""
    return min(1.0, 2 * float(special.bdtr(min(lost, gained), lost + gained, 0.5)))


def images_to_decide(
    estimate: Estimate, threshold: float, share: Callable[[int, int], Estimate] | None = None
) -> int | None:
    """Return how many images would settle on which side of `threshold` the value lies, were it to stay as it is.

    `share` is what estimates a share from successes and images; None: the estimate is of another kind, whose interval
    shrinks with the root of the number of images. The answer is None where it is more than ten million, or where the
    value is the threshold itself.
    """
    distance = abs(estimate.value - threshold)
    if distance == 0:
        return None
    if share is None:
        half = estimate.value - estimate.low if threshold < estimate.value else estimate.high - estimate.value
        needed = math.ceil(estimate.n * (half / distance) ** 2)
        return needed if needed <= _MOST_IMAGES else None

    def decides(n: int) -> bool:
        found = share(round(estimate.value * n), n)
        return not found.low <= threshold <= found.high

    decided, undecided = _MOST_IMAGES, estimate.n
    if not decides(decided):
        return None
    while decided - undecided > max(1, undecided // 100):
        middle = (decided + undecided) // 2
        if decides(middle):
            decided = middle
        else:
            undecided = middle
    return decided
