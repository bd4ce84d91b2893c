"""Quantiles of streams of numbers, a stream a channel, in memory that does not grow: histograms over float bits.

The bits of a positive float32, read as an integer, order floats by size; without the last 16 they are a bin, one of
128 an octave, so that a bin's upper edge is at most 0.8 % above anything in it.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor

from auditkit.errors import ExecutionError

__all__ = ["ChannelHistogram"]

_SHIFT = 16
_BINS_AN_OCTAVE = 1 << (23 - _SHIFT)
_OCTAVES_BELOW = 12
_OCTAVES_ABOVE = 2
# One bin for all that is smaller, zero and negative numbers included, and one for all that is larger.
_BINS = (_OCTAVES_BELOW + _OCTAVES_ABOVE) * _BINS_AN_OCTAVE + 2
_FIRST = (127 - _OCTAVES_BELOW) * _BINS_AN_OCTAVE


class ChannelHistogram:
    """Counts numbers by size: 14 octaves around the largest of the first batch, 7 KiB a channel."""

    def __init__(self, first: Tensor, channel_axis: int | None) -> None:
        """Choose the octaves for numbers like these; they are not counted yet.

        Args:
            first: any shape, floating point.
            channel_axis: the axis with the channels; None takes all numbers for one channel.
        """
        self.channel_axis = channel_axis
        largest = self._largest(first).float()
        largest = torch.where(largest > 0, largest, largest.max())
        largest = torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))
        # A power of two, so that scaling is exact; the largest of the first batch is then between 1/2 and 1.
        self.scale = torch.ldexp(torch.ones_like(largest), -torch.frexp(largest).exponent)
        # A channel alone stands for a whole layer, whose values over a data set can be more than 32 bits count.
        kind = torch.int64 if channel_axis is None else torch.int32
        self.counts = torch.zeros(len(largest), _BINS, dtype=kind, device=first.device)
        self.largest = first.new_full((len(largest),), -math.inf)

    def add(self, values: Tensor) -> None:
        """Count values of the first's shape, but for the number of rows."""
        values = values.detach()
        self.largest = torch.maximum(self.largest, self._largest(values))
        bits = (values.float() * self._along(self.scale, values)).view(torch.int32)
        bins = bits.bitwise_right_shift_(_SHIFT).sub_(_FIRST - 1).clamp_(0, _BINS - 1)
        channels = torch.arange(len(self.counts), dtype=torch.int32, device=bins.device)
        bins += _BINS * self._along(channels, values)
        self.counts += torch.bincount(bins.flatten(), minlength=self.counts.numel()).view_as(self.counts)

    def _largest(self, values: Tensor) -> Tensor:
        """Return the largest number of each channel, (C,)."""
        if self.channel_axis is None:
            return values.detach().amax().reshape(1)
        own = self.channel_axis % values.dim()
        return values.detach().amax([axis for axis in range(values.dim()) if axis != own])

    def _along(self, numbers: Tensor, values: Tensor) -> Tensor:
        """Return numbers (C,) in the shape that broadcasts along the channels of the values."""
        shape = [1] * values.dim()
        shape[self.channel_axis or 0] = -1
        return numbers.view(shape)

    def upper_quantile(self, quantile: float) -> Tensor:
        """Return (C,) numbers that at least the share `quantile` of each channel does not exceed; none is negative.

        They lie at most 0.8 % above the exact order statistic, and never above the largest number of the channel. A
        statistic below 1/2048 of the largest number of the first part is given as at most that.

        Raises:
            ExecutionError: there were infinite values or NaN.
        """
        if not bool(self.largest.isfinite().all()):
            raise ExecutionError("the activations on the calibration images are not all finite")
        below = self.counts.cumsum(1, dtype=torch.int64)
        rank = math.ceil(Fraction(str(quantile)) * int(below[0, -1]))
        place = (below < rank).sum(1)
        edge = ((place + _FIRST).int() << _SHIFT).view(torch.float32) / self.scale
        edge = torch.where(place == _BINS - 1, torch.inf, edge)
        return torch.minimum(edge.to(self.largest.dtype), self.largest).clamp(min=0)
