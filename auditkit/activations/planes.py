"""One layout for the activations of all layers: for each image and unit, a row of values at different positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Planes", "planes"]


@dataclass(frozen=True)
class Planes:
    """The activations of N images at one site, in the order in which they lie in memory."""

    values: Tensor
    """float32, contiguous: (N, C, P) or (N, P, C), C units at P positions."""
    channel_axis: int
    """1 or 2."""

    @property
    def position_axis(self) -> int:
        """The axis of the positions."""
        return 3 - self.channel_axis

    @property
    def positions(self) -> int:
        """The number of positions P."""
        return self.values.shape[self.position_axis]

    def take(self, count: int) -> Planes:
        """Return those of the first `count` images."""
        return Planes(self.values[:count], self.channel_axis)

    def along_channels(self, numbers: Tensor) -> Tensor:
        """Return numbers (C,) in a shape that broadcasts along the units."""
        return numbers.view(1, -1, 1) if self.channel_axis == 1 else numbers.view(1, 1, -1)


def planes(activations: Tensor, channel_axis: int) -> Planes:
    """Lay out activations (N, ...) whose units lie along `channel_axis` (1 or more), without copying where possible."""
    values = activations if activations.dtype == torch.float32 else activations.float()
    if values.dim() == 1:
        return Planes(values.contiguous().view(-1, 1, 1), 1)
    if values.dim() == 4 and not values.is_contiguous() and values.is_contiguous(memory_format=torch.channels_last):
        values, channel_axis = values.permute(0, 2, 3, 1), {1: 3, 2: 1, 3: 2}[channel_axis]
    if channel_axis == 1:
        return Planes(values.contiguous().view(*values.shape[:2], -1), 1)
    values = values.movedim(channel_axis, -1).contiguous()
    return Planes(values.view(len(values), -1, values.shape[-1]), 2)
