"""Where an image is covered: rectangles of one size, on a grid that leaves nothing out."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from auditkit.errors import ExecutionError

__all__ = ["Windows"]


@dataclass(frozen=True)
class Windows:
    """K windows of `height` x `width` pixels: one at every crossing of `tops` and `lefts`, row by row.

    Window `r * len(lefts) + c` covers the rows from `tops[r]` and the columns from `lefts[c]`.

    Raises:
        ExecutionError: a window does not lie inside the image, or tops or lefts do not ascend.
    """

    image_height: int
    image_width: int
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    height: int
    width: int

    def __post_init__(self) -> None:
        for starts, size, side in (
            (self.tops, self.height, self.image_height),
            (self.lefts, self.width, self.image_width),
        ):
            ascend = all(one < other for one, other in itertools.pairwise(starts))
            if not starts or not ascend or size < 1 or starts[0] < 0 or starts[-1] + size > side:
                raise ExecutionError(
                    f"wanted windows in ascending order inside {side} pixels, got {size} pixels from each of {starts}"
                )

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    @property
    def shape(self) -> tuple[int, int]:
        """How many windows there are below and beside each other."""
        return len(self.tops), len(self.lefts)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """The top row and the left column of each window."""
        return [(top, left) for top in self.tops for left in self.lefts]

    @property
    def centres(self) -> list[tuple[int, int]]:
        """The row and the column of each window's middle pixel; of an even number, the later one of the two."""
        return [(top + self.height // 2, left + self.width // 2) for top, left in self.corners]

    @staticmethod
    def covering(height: int, width: int, patch_height: int, patch_width: int, per_axis: int) -> Windows:
        """Return windows of which at least one hides a patch completely, wherever the patch lies in the image.

        The patch may have any size up to the one given. There are at most `per_axis` windows an axis, and they are as
        small as that allows: the R-covering masks of PatchCleanser, https://arxiv.org/abs/2108.09135.

        Raises:
            ExecutionError: the patch does not fit into the image, or there is to be no window.
        """
        tops, rows = _covering(height, patch_height, per_axis)
        lefts, columns = _covering(width, patch_width, per_axis)
        return Windows(height, width, tops, lefts, rows, columns)

    @staticmethod
    def standard(height: int, width: int, share: float = 5 / 32, per_axis: int = 6) -> Windows:
        """Return the covering windows that checks share: of patches up to `share` of either side of the image."""
        return Windows.covering(height, width, math.ceil(share * height), math.ceil(share * width), per_axis)

    @staticmethod
    def grid(height: int, width: int, size: tuple[int, int], stride: tuple[int, int]) -> Windows:
        """Return windows of `size` (rows, columns), `stride` apart; the last are moved inside where they stick out.

        Raises:
            ExecutionError: a window does not fit into the image, or pixels between two windows would stay uncovered.
        """
        tops, lefts = _grid(height, size[0], stride[0]), _grid(width, size[1], stride[1])
        return Windows(height, width, tops, lefts, *size)


def _covering(side: int, patch: int, per_axis: int) -> tuple[tuple[int, ...], int]:
    """Return the starts and the size of the windows along one axis."""
    if not 1 <= patch <= side or per_axis < 1:
        raise ExecutionError(
            f"wanted a patch of 1 to {side} pixels and at least 1 window along an axis of {side} pixels; "
            f"got {patch} pixels and {per_axis} windows"
        )
    # A patch has side - patch + 1 places. A window that is larger by stride - 1 hides it in `stride` of them.
    stride = math.ceil((side - patch + 1) / per_axis)
    size = min(patch + stride - 1, side)
    return _starts(side, size, stride), size


def _grid(side: int, size: int, stride: int) -> tuple[int, ...]:
    if not 1 <= size <= side or not 1 <= stride <= size:
        raise ExecutionError(
            f"wanted windows of 1 to {side} pixels along an axis of {side} pixels, and a stride from 1 to the window's "
            f"size, so that no pixel stays uncovered; got windows of {size} pixels with a stride of {stride}"
        )
    return _starts(side, size, stride)


def _starts(side: int, size: int, stride: int) -> tuple[int, ...]:
    last = side - size
    return (*range(0, last, stride), last)
