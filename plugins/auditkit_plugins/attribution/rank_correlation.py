"""Spearman's rank correlation of maps: whether they call the same pixels strong, whatever their scale."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rank_correlation"]


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return float64 (N,) in [-1, 1] for pairs of maps (N, ...); NaN where one of them is the same everywhere.

    Equal values share the mean of their ranks.
    """
    pairs = zip(first.flatten(1), second.flatten(1), strict=True)
    return torch.stack([_correlation(_ranks(one), _ranks(other)) for one, other in pairs])


def _ranks(values: Tensor) -> Tensor:
    """Return float64 (M,): ranks less their mean."""
    _, places, counts = torch.unique(values, return_inverse=True, return_counts=True)
    ranks: Tensor = counts.cumsum(0).double() - (counts.double() - 1) / 2
    return ranks[places] - (len(values) + 1) / 2


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    correlation: Tensor = torch.dot(first, second) / (first.norm() * second.norm())
    return correlation
