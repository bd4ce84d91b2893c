"""Histograms of the bits of floats: any range of magnitudes, fixed memory, and those of two shards simply add up.

The bits of a positive float, read as an integer, order floats by size. Rounding to bfloat16 leaves only the first 16 of
them, and these are the number of a bin: 128 bins an octave, from 1e-38 to 3e38, none wider than 0.8 % of what is in it.
A quantile that is read from the middle of its bin is off by less than 0.4 %, whatever the distribution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["BINS", "MagnitudeHistogram", "count_bits", "magnitude_bits", "zero_spread"]

BINS = 1 << 15
"""The number of bins: all that the first 16 bits of a float that is not negative can be."""

# Below the smallest normal float (1.2e-38) everything is zero here. Zeros are spread over these bins while they are
# counted, for a processor that adds one to the same number again and again waits for itself.
_ZEROS = 128
_SPREAD = 64
_INFINITY = 0x7F80


def magnitude_bits(values: Tensor, negative: bool, into: Tensor, spread: Tensor) -> Tensor:
    """Return int16 (N, M): the bins of the magnitudes of finite float32 values (N, M).

    Args:
        values: the values.
        negative: whether some may be negative; those of a ReLU are not.
        into: bfloat16 (N, M), overwritten.
        spread: int16 (M,), see `zero_spread`.
    """
    into.copy_(values)
    bits = into.view(torch.int16)
    if negative:
        bits.bitwise_and_(BINS - 1)
    # A negative zero is a negative number as an integer.
    return torch.maximum(bits, spread, out=bits)


def zero_spread(size: int, device: torch.device) -> Tensor:
    """Return int16 (size,): the bins that zeros are counted in, one after the other."""
    return (torch.arange(size, device=device) % _SPREAD).to(torch.int16)


def count_bits(bits: Tensor) -> Tensor:
    """Return int64 (BINS,): how many of the bins `bits` (M,) are each of all bins; all zeros are in the first."""
    counts = torch.bincount(bits, minlength=BINS)
    counts[0] = counts[:_ZEROS].sum()
    counts[1:_ZEROS] = 0
    return counts


@dataclass(frozen=True)
class MagnitudeHistogram:
    """How many values have which magnitude."""

    counts: npt.NDArray[np.int64]
    """(BINS,), as `count_bits` returns them."""
    largest: float
    """The largest magnitude."""

    @property
    def total(self) -> int:
        """The number of values."""
        return int(self.counts.sum())

    @property
    def zeros(self) -> int:
        """The number of zeros; what is smaller than the smallest normal float counts as one."""
        return int(self.counts[0])

    def quantile(self, share: float) -> float | None:
        """Return the smallest magnitude that at least this share of all values does not exceed; None without values."""
        return self._at(share, self.zeros, self.total)

    def quantile_of_positive(self, share: float) -> float | None:
        """Return the same of the values that are not zero; None where all are."""
        return self._at(share, 0, self.total - self.zeros)

    def above(self, magnitude: float) -> int:
        """Return the number of values in bins beyond that of `magnitude`: more than 0.4 % larger than it, at least."""
        return int(self.counts[_bin(magnitude) + 1 :].sum())

    def positive(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the magnitudes in the middle of all bins that hold something but zeros, and how many each holds."""
        filled = np.flatnonzero(self.counts[1:]) + 1
        return np.minimum(_middles(filled), self.largest), self.counts[filled]

    def _at(self, share: float, zeros: int, total: int) -> float | None:
        if not total:
            return None
        # The share as it is written: as a float, 0.99 is a little less.
        rank = max(1, math.ceil(Fraction(str(share)) * total))
        if rank <= zeros:
            return 0.0
        magnitudes, counts = self.positive()
        return float(magnitudes[np.searchsorted(zeros + np.cumsum(counts), rank)])


def _bin(magnitude: float) -> int:
    return int(torch.tensor(magnitude).to(torch.bfloat16).view(torch.int16))


def _middles(bins: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return what floats of these bins were rounded to; the bin of infinity holds what is nearly too large."""
    bits = np.minimum(bins, _INFINITY - 1).astype(np.uint32) << 16
    return bits.view(np.float32).astype(np.float64)
