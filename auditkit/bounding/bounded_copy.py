"""A network with bounded activations: `bounded_copy`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from auditkit.bounding.activation import Overflow, UpperBound, as_bound
from auditkit.bounding.sites import Site
from auditkit.bounding.surgery import Method, with_modules_at_sites
from auditkit.errors import UsageError

__all__ = ["Bound", "BoundedNetwork", "bounded_copy", "checked_bound", "checked_count", "is_free"]

Bound = float | Tensor | None
"""One number for a layer, shape (C,) for a number a channel; None, or infinite everywhere, leaves a site alone."""


@dataclass(frozen=True)
class BoundedNetwork:
    """A copy of a network with bounds, and where they are."""

    network: nn.Module
    """In evaluation mode."""
    sites: tuple[Site, ...]
    """All sites that were found, in order of execution."""
    paths: tuple[str | None, ...]
    """The path in the network of the `UpperBound` at each site, None where there is none."""
    method: Method
    """How the network was rewritten."""

    def bounds(self) -> tuple[Tensor | None, ...]:
        """Return the bound at each site as it is now, None where there is none."""
        return tuple(None if module is None else module.bound.detach().clone() for module in self.modules())

    def modules(self) -> tuple[UpperBound | None, ...]:
        """Return the module at each site, None where there is none."""
        found = [None if path is None else self.network.get_submodule(path) for path in self.paths]
        return tuple(module if isinstance(module, UpperBound) else None for module in found)

    def summary(self) -> str:
        """Return how many sites were found and bounded, and how, as a clause for people."""
        return f"{sum(path is not None for path in self.paths)} of {len(self.sites)} sites bounded ({self.method})"


def bounded_copy(
    network: nn.Module, images: Tensor, bounds: Sequence[Bound], overflow: Overflow = "fold", slope: float = 0.01
) -> BoundedNetwork:
    """Return a copy of a network whose rectifiers are bounded from above.

    What a rectifier does below its bound stays as it is: a ReLU remains flat below zero, a ReLU6 ends at 6.

    Args:
        network: any torch module; it is not changed.
        images: (N, ...), N at least 1: what the network takes. A few are run.
        bounds: one for each site, in order of execution (`find_sites`).
        overflow: what happens beyond the bound.
        slope: the size of the slope there.

    Raises:
        UsageError: the bounds do not fit the sites.
        NothingToBound: there are no sites.
        ExecutionError: the network cannot be rewritten.
    """
    given = list(bounds)

    def module_at(site: Site, values: Tensor) -> nn.Module | None:
        bound = given.pop(0) if given else None
        if bound is None or is_free(bound):
            return None
        value = checked_bound(site, bound).to(values)
        return UpperBound(value, overflow, slope, channel_axis=site.channel_axis)

    rebuilt = with_modules_at_sites(network, images, module_at)
    checked_count(rebuilt.sites, bounds)
    paths = {module: path for path, module in rebuilt.network.named_modules()}
    placed = tuple(None if module is None else paths[module] for module in rebuilt.placed)
    return BoundedNetwork(rebuilt.network, rebuilt.sites, placed, rebuilt.method)


def is_free(bound: Bound) -> bool:
    """Tell whether a bound bounds nothing."""
    return bound is None or bool((torch.as_tensor(bound) == math.inf).all())


def checked_count(sites: Sequence[Site], bounds: Sequence[Bound]) -> None:
    """Refuse bounds that are not one for each site.

    Raises:
        UsageError: there are more or fewer.
    """
    if len(sites) != len(bounds):
        raise UsageError(f"wanted {len(sites)} bounds, one a site; got {len(bounds)}")


def checked_bound(site: Site, bound: float | Tensor) -> Tensor:
    """Return the bound of a site as a tensor of shape () or (C,).

    Raises:
        UsageError: it has another shape, or a number is negative.
    """
    value = as_bound(bound)
    # A graph that does not state its number of channels has none.
    if value.dim() == 1 and site.channels not in (0, len(value)):
        raise UsageError(f"site {site.name} has {site.channels} channels; got a bound of shape {tuple(value.shape)}")
    return value
