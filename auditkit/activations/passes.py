"""The passes over the activations of some images at one site, as few and as cheap as they can be."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit.activations.histogram import count_bits, magnitude_bits, zero_spread
from auditkit.activations.moments import power_sums
from auditkit.activations.planes import Planes

__all__ = ["Passes", "UnitStatistics", "unit_statistics"]

# So many values stay in the caches of a processor from one pass to the next.
_VALUES_AT_ONCE = 1 << 18
_KINDS = (torch.float32, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class UnitStatistics:
    """What the C units of a site did for each of n images, (n, C)."""

    highest: Tensor
    largest: Tensor
    """The largest magnitude."""
    mass: Tensor
    """The sum of the magnitudes over all positions."""

    @property
    def finite(self) -> bool:
        """Whether all activations are finite."""
        return bool(self.mass.sum().isfinite())


def unit_statistics(planes: Planes, negative: bool) -> UnitStatistics:
    """Return the statistics of activations, some of which may be negative."""
    values, axis = planes.values, planes.position_axis
    highest = values.amax(axis)
    if not negative:
        return UnitStatistics(highest, highest, values.sum(axis))
    magnitudes = values.abs()
    return UnitStatistics(highest, magnitudes.amax(axis), magnitudes.sum(axis))


class Passes:
    """Goes over activations with memory of its own, which is used again for every site."""

    def __init__(self, device: torch.device, pool: Executor | None = None) -> None:
        self.device = device
        self.pool = pool
        self._memory = {kind: torch.empty(0, dtype=kind, device=device) for kind in _KINDS}
        self._spread = torch.empty(0, dtype=torch.int16, device=device)

    def outliers(self, planes: Planes, negative: bool, low: Tensor, high: Tensor) -> Tensor:
        """Return float32 (n,): how many activations of each image lie below `low` or above `high`, both (C,)."""
        values = planes.values
        rows = max(1, _VALUES_AT_ONCE // values[0].numel()) if self.device.type == "cpu" else len(values)
        counts = torch.empty(len(values), device=self.device)
        low, high = planes.along_channels(low), planes.along_channels(high)
        for start in range(0, len(values), rows):
            part = values[start : start + rows]
            # As floats, for sums of booleans take several times as long.
            beyond = self._of(torch.float32, part.numel()).view(part.shape)
            found = torch.gt(part, high, out=beyond).sum((1, 2))
            if negative:
                found += torch.lt(part, low, out=beyond).sum((1, 2))
            counts[start : start + rows] = found
        return counts

    def magnitudes(self, planes: Planes, negative: bool) -> Tensor:
        """Return int64 (BINS,): the histogram of the magnitudes of finite activations."""
        values = planes.values.flatten(1)
        if values.shape[1] > len(self._spread):
            self._spread = zero_spread(values.shape[1], self.device)
        into = self._of(torch.bfloat16, values.numel()).view(values.shape)
        bits = magnitude_bits(values, negative, into, self._spread[: values.shape[1]]).view(-1)
        if self.pool is None:
            return count_bits(bits)
        # torch counts with one thread only.
        parts = self.pool.map(count_bits, bits.chunk(torch.get_num_threads()))
        return torch.stack(list(parts)).sum(0)

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
