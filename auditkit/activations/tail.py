"""How heavy the tail of a distribution is: Hill's estimate of the power that it falls with."""

from __future__ import annotations

import numpy as np

from auditkit.activations.histogram import MagnitudeHistogram

__all__ = ["tail_index"]

_SMALLEST_TAIL = 50
_SHARE = 0.001
# A tail of less than an eighth of an octave is the edge of a bounded function.
_NARROWEST_BINS = 16


def tail_index(histogram: MagnitudeHistogram) -> float | None:
    """Return Hill's estimate of alpha, where P(value > x) falls like x ** -alpha: the smaller, the heavier the tail.

    The tail is the largest 0.1 % of the values (at least 50 of them) and whatever shares the bin of the smallest of
    these; with x0 the lower edge of that bin it is k / sum(log(x / x0)). None where the tail is not half of what is
    positive, or has an end.

    Hill 1975, https://doi.org/10.1214/aos/1176343247.
    """
    magnitudes, counts = histogram.positive()
    wanted = max(_SMALLEST_TAIL, int(np.ceil(_SHARE * histogram.total)))
    if counts.sum() < 2 * wanted:
        return None
    first = int(np.flatnonzero(np.cumsum(counts[::-1])[::-1] >= wanted)[-1])
    tail, weights = magnitudes[first:], counts[first:]
    if tail[-1] < tail[0] * 2 ** (_NARROWEST_BINS / 128):
        return None
    # The middle of a bin is what floats were rounded to: its lower edge lies half a step below.
    edge = tail[0] - 2.0 ** np.floor(np.log2(tail[0])) / 256
    return float(weights.sum() / (weights * np.log(tail / edge)).sum())
