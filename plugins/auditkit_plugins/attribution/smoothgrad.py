"""SmoothGrad: the mean of the gradients at noisy copies of an image (Smilkov et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit import Differentiable, Streams
from auditkit_plugins.attribution.gradients import gradients_at

__all__ = ["Smoothed", "smoothgrad"]


@dataclass(frozen=True)
class Smoothed:
    """The mean gradient of N images, and how much of it is more than the luck of the draws."""

    gradient: Tensor
    """float32 (N, C, H, W), signed."""
    steadiness: Tensor
    """float64 (N,): the cosine between the means of every other draw and of the rest; 0 where one of them is zero."""

    @property
    def maps(self) -> Tensor:
        """float32 (N, H, W), not negative: the size of the mean gradient, the largest over the channels."""
        return self.gradient.abs().amax(1)


def smoothgrad(
    model: Differentiable, images: Tensor, classes: Tensor, streams: Streams, draws: int = 25, sigma: float = 0.15
) -> Smoothed:
    """Average the gradient of the unnormalised score of `classes` over noisy copies of each image.

    Signed gradients are averaged; size and maximum are taken of the mean, so that what flickers cancels out
    (https://arxiv.org/abs/1706.03825). Without noise the map is vanilla saliency, bit for bit.

    Args:
        model: what is explained, before its softmax.
        images: (N, C, H, W) in [0, 1]. The noisy copies are not clipped, for that would push their mean inwards.
        classes: int64 (N,).
        streams: one an image.
        draws: noisy copies of an image, at least 2.
        sigma: the standard deviation of the noise, as a share of the image's own range, largest less smallest value.
    """
    spread = sigma * (images.amax((1, 2, 3), keepdim=True) - images.amin((1, 2, 3), keepdim=True))

    def noisy(draw: int) -> Tensor:
        return images + spread * streams.normal(draw, images.shape[1:])

    # In float64 a sum of equal float32 numbers is exact, and so is their mean.
    halves = [torch.zeros_like(images, dtype=torch.float64) for _ in range(2)]
    for draw, gradient in enumerate(gradients_at(model.unnormalised, classes, noisy, draws)):
        halves[draw % 2] += gradient
    return Smoothed(((halves[0] + halves[1]) / draws).float(), _cosine(*halves))


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    # Row by row, for a sum over many rows may add up in another order than a sum over one.
    cosines = [
        torch.dot(a, b) / (a.norm() * b.norm()) for a, b in zip(first.flatten(1), second.flatten(1), strict=True)
    ]
    return torch.stack(cosines).nan_to_num(0.0)
