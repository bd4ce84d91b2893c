"""Estimates with intervals: the only statistics that an audit reports."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy import special

__all__ = ["CONFIDENCE", "Estimate", "exact_mcnemar", "images_to_decide", "mean", "median", "proportion", "ratio"]

CONFIDENCE = 0.95
_OF_OBJECTS = "Korn-Graubard (objects grouped by image)"
_MOST_IMAGES = 10_000_000


class Estimate(BaseModel):
    """A value, the interval that holds the true one at the stated confidence, and the number of images behind it.

    For a share of objects (`of_objects`), `n` is the number of those.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float
    low: float
    high: float
    n: int
    method: str

    @property
    def of_objects(self) -> bool:
        """Whether it is a share of objects, several of which may be in one image."""
        return self.method == _OF_OBJECTS

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


def ratio(
    part: npt.NDArray[np.floating | np.integer],
    whole: npt.NDArray[np.floating | np.integer],
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Estimate the share of `part` (N,) in `whole` (N,), the objects that count and all objects of each image.

    What happens to the objects of one image hangs together, so they are worth fewer than they are. The interval is the
    exact binomial one at an effective number of objects (Korn and Graubard 1998): that which would have the variance
    seen between the images, at most the true number, and less where few images leave that variance uncertain. It never
    claims to know images unlike all seen: n images without one still allow a share of 1 - 0.025 ** (1/n) of such (at
    95 %), so that at a share of 0 or 1 each image with objects counts as one. Counts may be means over several draws.
    `n` of the estimate is the number of objects.

    Raises:
        ValueError: the two differ in length, a part lies outside 0..whole, or there is no object.
    """
    counted: npt.NDArray[np.float64] = np.asarray(part, dtype=np.float64)
    every: npt.NDArray[np.float64] = np.asarray(whole, dtype=np.float64)
    # A mean of draws may miss the whole by a last digit.
    if (
        counted.ndim != 1
        or counted.shape != every.shape
        or not ((counted >= 0) & (counted <= every * (1 + 1e-12))).all()
    ):
        raise ValueError("a ratio needs counts (N,) with 0 <= part <= whole for each image")
    # Exact sums, so that not even a last digit depends on the order of the images.
    objects = math.fsum(every)
    if not 0 < objects < math.inf:
        raise ValueError("a ratio needs at least one object, and finite counts")
    share = min(math.fsum(counted) / objects, 1.0)
    images = int(np.count_nonzero(every))
    size = _effective_objects(share, counted, every, objects, images, confidence)
    tail, hits = (1 - confidence) / 2, share * size
    seen = tail ** (1 / images)
    low = float(special.betaincinv(hits, size - hits + 1, tail)) if share > 0 else 0.0
    high = float(special.betaincinv(hits + 1, size - hits, 1 - tail)) if share < 1 else 1.0
    low, high = min(low, share * seen), max(high, 1 - (1 - share) * seen)
    n = max(1, round(objects))
    return Estimate(value=share, low=low, high=high, n=n, method=_OF_OBJECTS)


def _effective_objects(
    share: float,
    part: npt.NDArray[np.float64],
    whole: npt.NDArray[np.float64],
    objects: float,
    images: int,
    confidence: float,
) -> float:
    """Return how many independent objects would tell as much of `share` as the `objects` grouped by image."""
    if share in (0.0, 1.0) or images == 1:
        return objects  # no variance to see; what images not seen may hold is all that is uncertain
    variance = images / (images - 1) * math.fsum((part - share * whole) ** 2) / objects**2
    design_effect = max(1.0, variance * (objects - 1) / (share * (1 - share)))
    if objects <= images:
        return objects / design_effect
    sure, unsure = special.stdtrit([objects - 1, images - 1], (1 + confidence) / 2)
    return objects / design_effect * float(sure / unsure) ** 2


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
        needed = estimate.n * (half / distance) * (half / distance)
        return math.ceil(needed) if needed <= _MOST_IMAGES else None

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
