"""How large the activations of a network are on clean images: quantiles at every site, as candidates for bounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from auditkit.bounding.histogram import ChannelHistogram
from auditkit.bounding.sites import Site
from auditkit.bounding.surgery import with_modules_at_sites
from auditkit.errors import UsageError

__all__ = ["QUANTILES", "Quantiles", "activation_quantiles"]

QUANTILES = (0.99, 0.999, 0.9999, 0.99999, 1.0)
"""The quantiles that are worth a try; 1 is the largest value."""


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of the values at each site over all images and places, zeros included."""

    sites: tuple[Site, ...]
    quantiles: tuple[float, ...]
    values: tuple[Tensor, ...]
    """For each site (Q, C), or (Q,) where channels were not told apart; rounded up, at most by 0.8 %."""

    def bounds(self, quantile: float) -> tuple[Tensor, ...]:
        """Return the values at one of the quantiles, for each site: what `bounded_copy` takes.

        Raises:
            UsageError: the quantile was not asked for.
        """
        if quantile not in self.quantiles:
            raise UsageError(f"the quantiles are {', '.join(map(str, self.quantiles))}; got {quantile}")
        place = self.quantiles.index(quantile)
        return tuple(values[place] for values in self.values)


def activation_quantiles(
    network: nn.Module, batches: Iterable[Tensor], quantiles: Sequence[float] = QUANTILES, *, per_channel: bool = True
) -> Quantiles:
    """Return quantiles of the activations of a network; memory does not grow with the number of images.

    Args:
        network: any torch module; it is not changed.
        batches: images (n, ...), what the network takes, at least one batch.
        quantiles: shares above 0 and up to 1.
        per_channel: whether channels are told apart.

    Raises:
        UsageError: a quantile is out of range, or there are no images.
        NothingToBound: the network has no sites.
        ExecutionError: the network cannot be rewritten, or its activations are not finite.
    """
    if not quantiles or not all(0 < quantile <= 1 for quantile in quantiles):
        raise UsageError(f"quantiles lie above 0 and up to 1; got {list(quantiles)}")
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None or not len(first):
        raise UsageError("activations are measured on images; got none")
    recorders: list[_Recorder] = []

    def module_at(site: Site, values: Tensor) -> nn.Module:
        recorders.append(_Recorder(site.channel_axis if per_channel and site.shape else None))
        return recorders[-1]

    rebuilt = with_modules_at_sites(network, first, module_at)
    with torch.no_grad():
        for batch in chain([first], remaining):
            rebuilt.network(batch)
    values = tuple(recorder.quantiles(quantiles) for recorder in recorders)
    return Quantiles(rebuilt.sites, tuple(quantiles), values)


class _Recorder(nn.Module):
    """Counts the values that pass through it."""

    def __init__(self, channel_axis: int | None) -> None:
        super().__init__()
        self.channel_axis = channel_axis
        self.histogram: ChannelHistogram | None = None

    def forward(self, values: Tensor) -> Tensor:
        if self.histogram is None:
            self.histogram = ChannelHistogram(values, self.channel_axis)
        self.histogram.add(values)
        return values

    def quantiles(self, quantiles: Sequence[float]) -> Tensor:
        if self.histogram is None:
            raise UsageError("activations are measured on images; got none")
        values = torch.stack([self.histogram.upper_quantile(quantile) for quantile in quantiles])
        return values.squeeze(1) if self.channel_axis is None else values
