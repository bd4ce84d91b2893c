"""A linear score that tells two groups of images apart, fitted in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Discriminant", "fit_discriminant"]

# The spread of a feature that is the same for all images; it then has no weight either.
_LEAST_SPREAD = 1e-9


@dataclass(frozen=True)
class Discriminant:
    """score = weights . (features - centre) / scale: larger for the group that should be noticed."""

    centre: Tensor
    """float64 (F,)."""
    scale: Tensor
    """float64 (F,), positive."""
    weights: Tensor
    """float64 (F,)."""

    def score(self, features: Tensor) -> Tensor:
        """Return float64 (N,) for features (N, F)."""
        device = features.device
        scaled = (features.double() - self.centre.to(device)) / self.scale.to(device)
        # Not a product of matrices, whose rounding may depend on the number of rows.
        return (scaled * self.weights.to(device)).sum(1)


def fit_discriminant(usual: Tensor, suspicious: Tensor, shrinkage: float = 0.3) -> Discriminant:
    """Return Fisher's linear discriminant of features (N, F) and (M, F), both groups counting alike.

    Features are scaled by the spread of the usual group. The mean covariance of the groups is drawn towards a multiple
    of the identity by the share `shrinkage`, above 0 and below 1 (Friedman 1989), so that few images do for many
    features.

    Raises:
        ValueError: a group has fewer than two images, or there is nothing but constant features.
    """
    if min(len(usual), len(suspicious)) < 2:
        raise ValueError(f"wanted two images of each group at least; got {len(usual)} and {len(suspicious)}")
    usual, suspicious = usual.double().cpu(), suspicious.double().cpu()
    centre, spread = usual.mean(0), usual.std(0)
    varies = spread > _LEAST_SPREAD * centre.abs().clamp_min(1)
    if not bool(varies.any()):
        raise ValueError("no feature differs between the usual images")
    scale = torch.where(varies, spread, 1.0)
    groups = [(group[:, varies] - centre[varies]) / scale[varies] for group in (usual, suspicious)]
    towards = groups[1].mean(0) - groups[0].mean(0)
    rows = torch.cat([(group - group.mean(0)) / (2 * len(group)) ** 0.5 for group in groups])
    weights = torch.zeros_like(centre)
    weights[varies] = _solved(rows, shrinkage, towards)
    return Discriminant(centre, scale, weights)


def _solved(rows: Tensor, shrinkage: float, towards: Tensor) -> Tensor:
    """Return S^-1 `towards` (F,) for S = (1 - s) R'R + s c I, c being the mean of the diagonal of R'R, R (M, F).

    There are more features than images often, so what is inverted has a row for each image (Woodbury's identity).
    """
    ridge = shrinkage * rows.square().sum() / rows.shape[1]
    small = rows @ rows.T + ridge / (1 - shrinkage) * torch.eye(len(rows), dtype=rows.dtype)
    solved: Tensor = (towards - rows.T @ torch.linalg.solve(small, rows @ towards)) / ridge
    return solved
