"""Sums and maxima of activations over any number of images, in memory that does not grow with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from auditkit.activations.histogram import BINS
from auditkit.models.taps import ActivationSite

__all__ = ["ActivationTotals"]


@dataclass(frozen=True)
class ActivationTotals:
    """Of S sites with C_1 + ... + C_S units in all.

    Those of two sets of images become one by adding and, of `largest` and `unit_highest`, by taking the larger number.
    """

    counts: Tensor
    """int64 (S, BINS): histograms of the magnitudes."""
    powers: Tensor
    """float64 (S, 4): sums of the values and of their second to fourth powers; zero where they were not wanted."""
    not_finite: Tensor
    """int64 (S,): the number of NaN and infinite values, which count nowhere else."""
    outliers: npt.NDArray[np.int64]
    """(S,): the number of outliers."""
    largest: npt.NDArray[np.float64]
    """(S,): the largest magnitude."""
    unit_mass: tuple[npt.NDArray[np.float64], ...]
    """(C_s,) for each site: sums of the magnitudes."""
    unit_highest: tuple[npt.NDArray[np.float64], ...]
    """(C_s,) for each site: the highest value, minus infinity where none was seen."""

    @staticmethod
    def none(sites: Sequence[ActivationSite], device: torch.device) -> ActivationTotals:
        """Return the totals of no images."""
        count = len(sites)
        return ActivationTotals(
            torch.zeros(count, BINS, dtype=torch.int64, device=device),
            torch.zeros(count, 4, dtype=torch.float64, device=device),
            torch.zeros(count, dtype=torch.int64, device=device),
            np.zeros(count, dtype=np.int64),
            np.zeros(count),
            tuple(np.zeros(site.channels) for site in sites),
            tuple(np.full(site.channels, -np.inf) for site in sites),
        )
