"""Integrated gradients: what each pixel contributes to a score (Sundararajan et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from auditkit import Differentiable
from auditkit_plugins.attribution.gradients import class_score, gradients_at
from auditkit_plugins.distortions.filters import mirrored, smooth

__all__ = ["Baseline", "Integrated", "baseline_images", "integrated_gradients"]

Baseline = Literal["black", "grey", "blur", "mean"]

_GREY = 0.5
# The blur of the baseline, as a share of the shorter side: shapes are gone, the colours of the scene are left.
_BLUR = 0.1
_BLUR_REACH = 3.0
# A change of score below this share of the spread of all scores is nothing that a residual could be a share of.
_LEAST_CHANGE = 0.01
_TINY = 1e-12


@dataclass(frozen=True)
class Integrated:
    """What the pixels of N images contribute to the change of a score between a baseline and the image."""

    contributions: Tensor
    """float32 (N, C, H, W), signed; in theory they sum to `change`."""
    change: Tensor
    """float64 (N,): the unnormalised score of the image less that of its baseline."""
    residual: Tensor
    """float64 (N,): how far the sum of the contributions is from `change`, as a share of it."""

    @property
    def signed(self) -> Tensor:
        """float32 (N, H, W): a pixel's contribution, all channels together; below zero it speaks against the class."""
        return self.contributions.sum(1)

    @property
    def maps(self) -> Tensor:
        """float32 (N, H, W), not negative: the size of each pixel's contribution."""
        return self.signed.abs()


def integrated_gradients(
    model: Differentiable, images: Tensor, classes: Tensor, steps: int = 32, baseline: Baseline = "black"
) -> Integrated:
    """Integrate the gradient of the unnormalised score of `classes` along the line from a baseline to each image.

    The integral is taken by Gauss and Legendre's rule (https://arxiv.org/abs/1703.01365, section 5, which has a sum of
    equal steps). Its residual says how good that is: a network of ReLUs has kinks that no rule is exact for.

    Args:
        model: what is explained, before its softmax.
        images: (N, C, H, W) in [0, 1].
        classes: int64 (N,).
        steps: points on the line, at least 1.
        baseline: where the line begins; see `baseline_images`.
    """
    model = model.unnormalised
    start = baseline_images(images, baseline)
    across = images - start
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    places, shares = ((nodes + 1) / 2).tolist(), (weights / 2).tolist()
    total = torch.zeros_like(images, dtype=torch.float64)
    gradients = gradients_at(model, classes, lambda number: start + places[number] * across, steps)
    for share, gradient in zip(shares, gradients, strict=True):
        total += share * gradient.double()
    contributions = (total * across).float()
    scores, from_scores = model.logits(images).double(), model.logits(start)
    change = class_score(scores, classes) - class_score(from_scores.double(), classes)
    least = _LEAST_CHANGE * (scores.amax(1) - scores.amin(1))
    scale = change.abs().maximum(least).clamp_min(_TINY)
    # Image by image, for a sum over many rows may add up in another order than a sum over one.
    sums = torch.stack([image.double().sum() for image in contributions])
    return Integrated(contributions, change, (sums - change).abs() / scale)


def baseline_images(images: Tensor, baseline: Baseline) -> Tensor:
    """Return images (N, C, H, W) that stand for nothing to be seen.

    `black` is 0 and `grey` 0.5 everywhere; `blur` is the image under a wide Gaussian; `mean` is the mean colour of the
    image. What has the baseline's colour contributes nothing: before `black`, a black object is invisible.
    """
    match baseline:
        case "black":
            return torch.zeros_like(images)
        case "grey":
            return torch.full_like(images, _GREY)
        case "blur":
            return smooth(images, _BLUR * min(images.shape[2:]), _BLUR_REACH, mirrored)
        case "mean":
            means = torch.stack([image.double().mean((1, 2), keepdim=True) for image in images])
            return means.to(images.dtype).expand_as(images)
