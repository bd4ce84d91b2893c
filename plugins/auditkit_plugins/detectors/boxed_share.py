"""How much of a map lies in a box, and how much lies in a box of that size on average, wherever it is put."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BoxedShare", "boxed_share"]


@dataclass(frozen=True)
class BoxedShare:
    """What is to be said of one map and one box."""

    inside: float
    """The share of the map's sum that lies in the box."""
    anywhere: float
    """The same for a box of its size, the mean over every place in the picture where it fits."""
    area: float
    """The share of the pixels that lie in the box."""
    points: bool
    """Whether the map is largest in the box."""


def boxed_share(heat: npt.NDArray[np.floating], box: Sequence[float]) -> BoxedShare | None:
    """Return how a map (H, W), not negative, lies to a box: left, top, right, bottom as shares of width and height.

    A pixel lies in the box if its centre does. The answer is None where the map is zero everywhere or not finite, and
    where no pixel is in the box.
    """
    rows, columns = _pixels(box[1], box[3], heat.shape[0]), _pixels(box[0], box[2], heat.shape[1])
    high, wide = rows.stop - rows.start, columns.stop - columns.start
    # Sums of the whole rectangle above and to the left of each corner.
    sums = np.zeros((heat.shape[0] + 1, heat.shape[1] + 1))
    sums[1:, 1:] = heat.astype(np.float64).cumsum(0).cumsum(1)
    total = float(sums[-1, -1])
    if not 0 < total < math.inf or high <= 0 or wide <= 0:
        return None
    everywhere = sums[high:, wide:] - sums[:-high, wide:] - sums[high:, :-wide] + sums[:-high, :-wide]
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return BoxedShare(
        inside=min(1.0, float(everywhere[rows.start, columns.start]) / total),
        anywhere=min(1.0, float(everywhere.mean()) / total),
        area=high * wide / heat.size,
        points=int(row) in rows and int(column) in columns,
    )


def _pixels(first: float, last: float, length: int) -> range:
    """Return the pixels of a row whose centres lie in [first, last), shares of its length."""
    start, stop = (min(max(math.ceil(edge * length - 0.5), 0), length) for edge in (first, last))
    return range(start, stop)
