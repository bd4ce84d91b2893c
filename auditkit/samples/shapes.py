"""Boxes, polygons and run lengths as masks: a pixel lies in a shape when its centre does.

The centre of the pixel in row i and column j is (j + 0.5, i + 0.5), x before y; the image reaches from 0 to its width
and from 0 to its height.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from auditkit.samples.pixels import MAX_PIXELS, Mask

__all__ = ["box_mask", "check_runs", "polygon_mask", "run_mask", "unpack_runs"]

# Compressed run lengths: each character holds five bits of a number and, above them, whether more follow.
_FIRST_CHARACTER = 48
_BITS = 5
_MORE = 1 << _BITS
_SIGN = 1 << (_BITS - 1)
_LONGEST_NUMBER = 50
"""Bits: far more than any image has pixels."""
# Edges times rows that are looked at together.
_TOGETHER = 1 << 22


def box_mask(left: float, top: float, right: float, bottom: float, size: tuple[int, int]) -> Mask:
    """Return bool `size` (H, W), true in the box; what of it lies outside the image is left out."""
    height, width = size
    rows, columns = np.arange(height) + 0.5, np.arange(width) + 0.5
    mask: Mask = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
    return mask


def polygon_mask(corners: NDArray[np.float64], size: tuple[int, int]) -> Mask:
    """Return bool `size` (H, W), true inside the closed polygon through `corners` (P, 2), x before y.

    Where the polygon crosses itself, a pixel is inside if a ray from it meets the outline an odd number of times.
    """
    height, width = size
    following = np.roll(corners, -1, axis=0)
    centres = np.arange(height) + 0.5
    passed = np.zeros((height, width + 1), dtype=np.int64)
    several = max(_TOGETHER // height, 1)
    for at in range(0, len(corners), several):
        first, second = corners[at : at + several], following[at : at + several]
        edges, rows = ((first[:, 1:] <= centres) != (second[:, 1:] <= centres)).nonzero()
        start, step = first[edges], (second - first)[edges]
        crossings = start[:, 0] + (centres[rows] - start[:, 1]) * step[:, 0] / step[:, 1]
        # From this column on, pixels lie to the right of the crossing.
        columns = np.ceil(crossings - 0.5).clip(0, width).astype(np.int64)
        np.add.at(passed, (rows, columns), 1)
    mask: Mask = passed[:, :width].cumsum(axis=1) % 2 == 1
    return mask


def check_runs(counts: Sequence[int], size: tuple[int, int]) -> None:
    """Make sure that runs fill a mask (H, W) that an image can have; nothing is drawn.

    Raises:
        ValueError: The runs are negative or do not fill the mask, or it is too large.
    """
    height, width = size
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"a mask of {height}x{width} pixels; wanted 1 to {MAX_PIXELS // 1_000_000} megapixels")
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(f"its run lengths do not fill {height}x{width} pixels")


def run_mask(counts: Sequence[int], size: tuple[int, int]) -> Mask:
    """Return bool `size` (H, W) from the lengths of its runs: false, true, false and so on, column by column.

    Raises:
        ValueError: As `check_runs`.
    """
    check_runs(counts, size)
    height, width = size
    lengths = np.asarray(counts, dtype=np.int64)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T


def unpack_runs(text: str) -> list[int]:
    """Return the run lengths in the compressed text of the COCO tools.

    Each number is spread over characters of five bits, the lowest first, with a sign; from the fourth on it is what
    must be added to the run before the last.

    Raises:
        ValueError: The text is cut off, or holds other characters or a number that is too large.
    """
    runs: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - _FIRST_CHARACTER
        if not 0 <= bits < 2 * _MORE:
            raise ValueError(f"its compressed run lengths hold the character {character!r}")
        number |= (bits & (_MORE - 1)) << shift
        shift += _BITS
        if shift > _LONGEST_NUMBER:
            raise ValueError("its compressed run lengths hold a number larger than any image")
        if bits & _MORE:
            continue
        if bits & _SIGN:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number = shift = 0
    if shift:
        raise ValueError("its compressed run lengths are cut off")
    return runs
