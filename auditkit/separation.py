"""How well a score tells two groups of images apart: exact for any scores, each value with its interval.

The group that should be noticed is positive, and larger scores are the more suspicious: the convention of pytorch-ood
and OpenOOD, where images unlike the data are the positives. Only the order of the scores counts, so they may have any
size and spacing, and be infinite.
"""

from __future__ import annotations

import bisect
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from auditkit.stats import CONFIDENCE, Estimate, proportion

__all__ = ["auroc", "fpr_at_tpr", "roc", "tpr_at_fpr"]

Scores = npt.NDArray[Any]
Values = npt.NDArray[np.float64]

_CURVE_POINTS = 24
# A share of n images that is a whole number but for rounding counts as that number.
_ROUNDING = 1e-9


def auroc(positives: Scores, negatives: Scores, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate the chance that a score of `positives` (P,) lies above one of `negatives` (M,), ties counting half.

    The value is Mann and Whitney's, from whole numbers. The interval is the exact binomial one for as many images as
    would have the standard error of DeLong et al. 1988: an effective size, as Korn and Graubard 1998 use it. Then it is
    widened for what the smaller group may happen not to hold: n images without one far on the wrong side still allow a
    share of 1 - 0.025 ** (1/n) of such (at 95 %). So it keeps the confidence where DeLong's own interval loses it: near
    0 and 1, with few images, and under perfect separation.

    Raises:
        ValueError: a group is empty, or holds NaN.
    """
    positives, negatives = np.sort(_checked(positives)), np.sort(_checked(negatives))
    twice_above = _twice_below(positives, negatives)
    value = int(twice_above.sum()) / (2 * len(positives) * len(negatives))
    above = twice_above / (2 * len(negatives))
    below = 1 - _twice_below(negatives, positives) / (2 * len(positives))
    low, high = _binomial_interval(value, _effective_size(value, above, below), confidence)
    on_the_right_side = ((1 - confidence) / 2) ** (1 / min(len(positives), len(negatives)))
    low, high = min(low, value * on_the_right_side), max(high, 1 - (1 - value) * on_the_right_side)
    n = len(positives) + len(negatives)
    return Estimate(value=value, low=low, high=high, n=n, method="binomial with DeLong's effective size")


def tpr_at_fpr(positives: Scores, negatives: Scores, fpr: float, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate the share of `positives` (P,) above the smallest threshold with at most `fpr` of `negatives` (M,) above.

    The threshold is an estimate, too, and the interval allows for that: order statistics of the negatives enclose the
    true one, Clopper and Pearson's bounds the share beyond it, and each may err half as often as the whole. So it never
    covers less often than it says. Negatives that are too few to bound the threshold (fewer than 86 at 5 %, or than 437
    at 1 %) leave a lower end of 0.

    Raises:
        ValueError: a group is empty or holds NaN, or `fpr` lies outside [0, 1].
    """
    counts = _beyond(_checked(positives), _checked(negatives), _rate(fpr), confidence)
    return _share(*counts, len(positives), len(positives) + len(negatives), confidence)


def fpr_at_tpr(positives: Scores, negatives: Scores, tpr: float, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate the share of `negatives` (M,) at or above the largest threshold that `tpr` of `positives` (P,) reach.

    The interval allows for the threshold, as that of `tpr_at_fpr` does.

    Raises:
        ValueError: a group is empty or holds NaN, or `tpr` lies outside [0, 1].
    """
    # Upside down, what is found are the negatives below the threshold, and the false alarms the positives below it.
    found = _beyond(-_checked(negatives), -_checked(positives), 1 - _rate(tpr), confidence)
    least, alarms, most = (len(negatives) - quiet for quiet in reversed(found))
    return _share(least, alarms, most, len(negatives), len(positives) + len(negatives), confidence)


def roc(positives: Scores, negatives: Scores, points: int = _CURVE_POINTS) -> list[tuple[float, Estimate]]:
    """Return up to `points` of the false positive rates that occur, from 0 to 1, each with `tpr_at_fpr` there.

    Raises:
        ValueError: a group is empty, or holds NaN.
    """
    values, repeats = np.unique(_checked(negatives), return_counts=True)
    alarms = np.concatenate([[0], repeats[::-1].cumsum()])
    chosen = np.unique(np.linspace(0, len(values), min(points, len(alarms))).round().astype(int))
    rates = (alarms[chosen] / len(negatives)).tolist()
    return [(rate, tpr_at_fpr(positives, negatives, rate)) for rate in rates]


def _checked(scores: Scores) -> Values:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or np.isnan(values).any():
        raise ValueError("two groups can be told apart only where each has at least one score, and no NaN")
    return values


def _rate(share: float) -> float:
    if not 0 <= share <= 1:
        raise ValueError(f"a rate lies in [0, 1], not {share}")
    return share


def _twice_below(of: Values, among: Values) -> npt.NDArray[np.int64]:
    """Return, for each of `of`, twice how many of `among` (in order) lie below it, ties counting half."""
    twice: npt.NDArray[np.int64] = np.searchsorted(among, of, side="left") + np.searchsorted(among, of, side="right")
    return twice


def _effective_size(value: float, above: Values, below: Values) -> float:
    """Return how many tosses of a coin would know the AUROC `value` as well as these two groups do.

    `above` (P,) is the share of negatives that lies below each positive, `below` (M,) that of positives above each
    negative: the mean of either is the AUROC.
    """
    if min(len(above), len(below)) == 1:
        return 1.0
    squared_error = sum(float(wins.var(ddof=1)) / len(wins) for wins in (above, below))
    return value * (1 - value) / squared_error if squared_error > 0 else math.inf


def _binomial_interval(value: float, size: float, confidence: float) -> tuple[float, float]:
    """Return the bounds of Clopper and Pearson, in which the number of successes need not be whole."""
    if math.isinf(size):
        return value, value
    tail = (1 - confidence) / 2
    successes = value * size
    low = special.betaincinv(successes, size - successes + 1, tail) if value > 0 else 0.0
    high = special.betaincinv(successes + 1, size - successes, 1 - tail) if value < 1 else 1.0
    return float(low), float(high)


def _beyond(positives: Values, negatives: Values, rate: float, confidence: float) -> tuple[int, int, int]:
    """Return how many positives lie above three thresholds: a highest one, the one estimated, a lowest one.

    The true threshold, that the share `rate` of all negatives lies above, is between the outer two but for half of the
    allowed errors.
    """
    n = len(negatives)
    tail = (1 - confidence) / 4
    # Fewer negatives above the true threshold than the first of these, or as many as the last, are too rare.
    fewest = bisect.bisect_right(range(n + 1), tail, key=lambda number: special.bdtr(number, n, rate))
    most = bisect.bisect_left(range(n + 1), -tail, key=lambda number: -special.bdtrc(number, n, rate)) + 1
    largest_first = np.concatenate([[math.inf], np.sort(negatives)[::-1]])
    ranks = (fewest, math.floor(rate * n + _ROUNDING) + 1, most)
    least, found, at_most = (
        int((positives > largest_first[rank]).sum()) if rank <= n else len(positives) for rank in ranks
    )
    return least, found, at_most


def _share(least: int, found: int, most: int, of: int, n: int, confidence: float) -> Estimate:
    halved = (1 + confidence) / 2
    return Estimate(
        value=found / of,
        low=proportion(least, of, halved).low,
        high=proportion(most, of, halved).high,
        n=n,
        method="Clopper-Pearson, thresholds from order statistics",
    )
