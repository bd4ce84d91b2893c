"""How loud each unit of a network is for an image, at a few depths: a sticker makes some of them far too loud."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from auditkit.models.base import Differentiable
from auditkit.models.taps import ActivationSite, tap_activations

__all__ = ["activity", "activity_sites"]

_DEPTHS = 3


def activity_sites(sites: Sequence[ActivationSite]) -> tuple[int, ...]:
    """Return the numbers of the sites to listen at: the last one of each of the last three resolutions.

    Sites with several positions come before those with one, such as the hidden layers of a classifier's head.
    """
    last = {_positions(site): number for number, site in enumerate(sites)}
    several = [number for positions, number in last.items() if len(positions)]
    return tuple(sorted(several or last.values())[-_DEPTHS:])


def _positions(site: ActivationSite) -> tuple[int, ...]:
    """Return the sizes of the axes that a unit's values lie along; none where it has one value."""
    axes = (size for axis, size in enumerate(site.shape) if axis != site.channel_axis)
    return tuple(size for size in axes if size > 1)


def activity(model: Differentiable, sites: Sequence[ActivationSite], images: Tensor) -> Tensor:
    """Return float64 (N, F) for images (N, C, H, W) in [0, 1]: of each unit of these sites its mean and its maximum."""
    listened = activity_sites(sites)
    parts: dict[int, list[Tensor]] = {number: [] for number in listened}

    def tap(number: int, activations: Tensor, rows: int) -> None:
        if number not in parts:
            return
        # Rows that only fill the batch are summed, too: a sum over few rows may be rounded otherwise.
        values = activations.unsqueeze(1) if activations.dim() == 1 else activations
        by_unit = values.movedim(sites[number].channel_axis + 1, 1) if activations.dim() > 1 else values
        flat = by_unit.flatten(2) if by_unit.dim() > 2 else by_unit.unsqueeze(2)
        finite = flat.float().nan_to_num()
        parts[number].append(torch.cat([finite.double().mean(2), finite.amax(2).double()], 1)[:rows])

    tap_activations(model, sites, images, tap)
    if not len(images):
        return torch.empty(0, 2 * sum(sites[number].channels for number in listened), dtype=torch.float64)
    return torch.cat([torch.cat(parts[number]) for number in listened], 1)
