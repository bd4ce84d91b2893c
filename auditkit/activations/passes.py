"""The passes over the activations of some images at one site, as few and as cheap as they can be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit.activations.histogram import magnitude_bits, zero_spread
from auditkit.activations.moments import power_sums
from auditkit.activations.planes import Planes

__all__ = ["Passes", "Seen"]

# So many values stay in the caches of a processor from one pass to the next.
_VALUES_AT_ONCE = 1 << 18
_KINDS = (torch.float32, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class Seen:
    """What was seen of n images at a site with C units."""

    highest: Tensor
    """(n, C)"""
    largest: Tensor
    """(n, C): the largest magnitude."""
    mass: Tensor
    """(n, C): the sum of the magnitudes over all positions."""
    outliers: Tensor
    """(n,): how many activations lie outside the limits of their unit."""
    bits: Tensor
    """int16 (n, values of an image): the bins of the magnitudes, until the next site is looked at."""

    @property
    def finite(self) -> bool:
        """Whether all activations are finite."""
        return bool(self.mass.sum().isfinite())


class Passes:
    """Goes over activations with memory of its own, which is used again for every site."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._memory = {kind: torch.empty(0, dtype=kind, device=device) for kind in _KINDS}
        self._spread = torch.empty(0, dtype=torch.int16, device=device)

    def see(self, planes: Planes, negative: bool, low: Tensor, high: Tensor) -> Seen:
        """Return what activations, some of which may be negative, are like; outliers lie outside limits (C,)."""
        values, axis = planes.values, planes.position_axis
        each = values[0].numel()
        rows = max(1, _VALUES_AT_ONCE // each) if self.device.type == "cpu" else len(values)
        highest, mass = (values.new_empty(len(values), values.shape[planes.channel_axis]) for _ in range(2))
        largest = torch.empty_like(highest) if negative else highest
        outliers = values.new_empty(len(values))
        bits = self._of(torch.bfloat16, values.numel()).view(len(values), each)
        low, high = planes.along_channels(low), planes.along_channels(high)
        for start in range(0, len(values), rows):
            part = slice(start, start + rows)
            some = values[part]
            highest[part] = _greatest(some, axis)
            scratch = self._of(torch.float32, some.numel()).view(some.shape)
            # As floats, for sums of booleans take several times as long.
            torch.sum(torch.gt(some, high, out=scratch), (1, 2), out=outliers[part])
            if negative:
                outliers[part] += torch.lt(some, low, out=scratch).sum((1, 2))
                torch.sum(torch.abs(some, out=scratch), axis, out=mass[part])
                largest[part] = _greatest(scratch, axis)
            else:
                torch.sum(some, axis, out=mass[part])
            magnitude_bits(some.flatten(1), negative, bits[part], self._zeros(each))
        return Seen(highest, largest, mass, outliers, bits.view(torch.int16))

    def powers(self, planes: Planes) -> Tensor:
        """Return float64 (4,): the sums of finite activations and of their second to fourth powers."""
        sums = torch.zeros(4, dtype=torch.float64, device=self.device)
        values = planes.values.view(-1)
        for start in range(0, len(values), _VALUES_AT_ONCE):
            part = values[start : start + _VALUES_AT_ONCE]
            sums += power_sums(part, self._of(torch.float64, 2 * len(part)).view(2, -1))
        return sums

    def _of(self, kind: torch.dtype, n: int) -> Tensor:
        if len(self._memory[kind]) < n:
            self._memory[kind] = torch.empty(n, dtype=kind, device=self.device)
        return self._memory[kind][:n]

    def _zeros(self, n: int) -> Tensor:
        if len(self._spread) < n:
            self._spread = zero_spread(n, self.device)
        return self._spread[:n]


def _greatest(values: Tensor, axis: int) -> Tensor:
    """Return the maximum along an axis."""
    if axis == values.dim() - 1:
        return values.amax(axis)
    # Along an axis that is not the last, torch's reduction takes ten times as long as comparing halves.
    while (size := values.shape[axis]) > 1:
        half = size // 2
        first, second = values.narrow(axis, 0, half), values.narrow(axis, half, half)
        last = values.narrow(axis, size - 1, 1)
        values = torch.maximum(first, second)
        if size % 2:
            values = torch.maximum(values, last)
    return values.squeeze(axis)
