"""Gradients of a class score at several points that belong to each image."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from auditkit import Differentiable

__all__ = ["class_score", "gradients_at"]


def class_score(logits: Tensor, classes: Tensor) -> Tensor:
    """Return (N,): of logits (N, K) the one of each row's own class, int64 (N,)."""
    return logits.gather(1, classes.unsqueeze(1)).squeeze(1)


def gradients_at(
    model: Differentiable, classes: Tensor, point: Callable[[int], Tensor], count: int
) -> Iterator[Tensor]:
    """Yield, for each number below `count`, the gradient of the class scores at `point(number)`, both (N, C, H, W).

    `classes` is int64 (N,). A batch is filled with several points of a few images, and never with more than fit into
    it, so memory does not grow with `count`.
    """
    rows = len(classes)
    together = max(1, model.batch // rows)
    for first in range(0, count, together):
        numbers = range(first, min(first + together, count))
        points = torch.cat([point(number) for number in numbers])
        _, gradients = model.gradient(points, class_score, classes.repeat(len(numbers)))
        yield from gradients.reshape(len(numbers), rows, *points.shape[1:])
