"""What is usual for each unit of a network, learned from a few images: mean, deviation, and how large it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from auditkit.activations.planes import planes
from auditkit.models.base import Differentiable
from auditkit.models.taps import ActivationSite, tap_activations

__all__ = ["OUTLIER", "ActivationCalibration", "calibrate_activations"]

OUTLIER = 4.0
"""How many standard deviations from its unit's mean an outlier lies (Filtered Batch Normalization's threshold)."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ActivationCalibration:
    """What is usual at each of S sites with C_1, ..., C_S units."""

    mean: Floats
    """(C_1 + ... + C_S,)"""
    deviation: Floats
    """The standard deviation, the same shape."""
    typical_largest: Floats
    """(S,): the median over the images of the largest magnitude at the site."""

    @staticmethod
    def of(lesson: Mapping[str, npt.NDArray[Any]]) -> ActivationCalibration:
        """Return it from the arrays that `arrays` returned."""
        return ActivationCalibration(lesson["mean"], lesson["deviation"], lesson["typical_largest"])

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return it as named arrays."""
        return {"mean": self.mean, "deviation": self.deviation, "typical_largest": self.typical_largest}

    def limits(self, sites: Sequence[ActivationSite], device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """Return for each site the float32 numbers (C,) below and above which an activation is an outlier."""
        ends = np.cumsum([site.channels for site in sites])[:-1]
        both = (np.split(self.mean + sign * OUTLIER * self.deviation, ends) for sign in (-1, 1))
        low, high = ([torch.from_numpy(part).float().to(device) for part in parts] for parts in both)
        return list(zip(low, high, strict=True))


def calibrate_activations(
    model: Differentiable, sites: Sequence[ActivationSite], images: Tensor, ids: Sequence[str]
) -> ActivationCalibration:
    """Return what is usual on images (N, C, H, W) in [0, 1]; neither their order nor the batch changes it."""
    sums: list[list[Tensor]] = [[] for _ in sites]
    squares: list[list[Tensor]] = [[] for _ in sites]
    largest: list[list[Tensor]] = [[] for _ in sites]

    def tap(number: int, activations: Tensor, rows: int) -> None:
        at_site = planes(activations, sites[number].channel_axis + 1)
        finite = torch.nan_to_num(at_site.values.double(), 0.0, 0.0, 0.0)
        sums[number].append(finite.sum(at_site.position_axis)[:rows])
        squares[number].append((finite * finite).sum(at_site.position_axis)[:rows])
        largest[number].append(finite.abs().flatten(1).amax(1)[:rows])

    tap_activations(model, sites, images, tap)
    order = sorted(range(len(ids)), key=lambda row: ids[row])
    means, deviations, typical = [], [], []
    for number, site in enumerate(sites):
        values = len(ids) * np.prod(site.shape, dtype=np.int64) / site.channels
        mean, square = (
            np.ascontiguousarray(torch.cat(parts[number]).cpu().numpy()[order]).sum(0) / values
            for parts in (sums, squares)
        )
        means.append(mean)
        deviations.append(np.sqrt(np.maximum(square - mean**2, 0)))
        typical.append(float(np.median(torch.cat(largest[number]).cpu().numpy())))
    return ActivationCalibration(np.concatenate(means), np.concatenate(deviations), np.array(typical))
