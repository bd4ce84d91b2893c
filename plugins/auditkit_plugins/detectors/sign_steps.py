"""Sign steps with momentum within a budget around each image: each image is moved by its own gradient alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from auditkit import Context, Differentiable

__all__ = ["random_signs", "sign_steps"]

_MOMENTUM = 0.5
_SHORTEST_STEP = 0.02


def sign_steps(
    search: Differentiable,
    images: Tensor,
    ids: tuple[str, ...],
    eps: float,
    steps: int,
    loss: Callable[..., Tensor],
    aligned: tuple[Tensor, ...],
    ctx: Context,
) -> Tensor:
    """Return images (N, C, H, W) in [0, 1], none of whose values moved by more than `eps`, for which the loss is small.

    `loss` takes packed candidates (N, M, 4 + K) and the tensors `aligned`, one row an image, and returns (N,). The
    search starts at a random point within the budget, another for each of `ids`, and its steps become shorter.
    """
    low, high = (images - eps).clamp_min(0), (images + eps).clamp_max(1)
    offset = eps * (2 * ctx.streams(ids, "start").uniform(0, images.shape[1:]) - 1)
    points = _between(images + offset, low, high)
    velocity = torch.zeros_like(images)
    for step in range(steps):
        ctx.check_time()
        _, gradient = search.gradient(points, loss, *aligned)
        # The largest value, unlike a sum, is the same in whatever order a row is read.
        scale = gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
        velocity = _MOMENTUM * velocity + gradient / scale
        length = eps * ((1 - step / steps) ** 2 + _SHORTEST_STEP)
        points = _between(points - length * velocity.sign(), low, high)
    return points


def random_signs(images: Tensor, ids: tuple[str, ...], eps: float, ctx: Context) -> Tensor:
    """Return images (N, C, H, W), called `ids`, of which each value moved by `eps` up or down at random."""
    signs = (ctx.streams(ids, "noise").uniform(0, images.shape[1:]) - 0.5).sign()
    return (images + eps * signs).clamp(0, 1)


def _between(points: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(points, low), high)
