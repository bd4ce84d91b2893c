"""Finds out which batch sizes keep a row's result independent of the rows beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from auditkit.models.base import Batching, Differentiable

__all__ = ["InFixedBatches", "find_batching", "find_gradient_batching"]

_ROWS = 32
_TRIED = (Batching(), Batching(fixed=32), Batching(copies=2), Batching(copies=4))
_ONE_BY_ONE = Batching(minimum=1, fixed=1)
# Small images are also tried in a full batch; for large ones that would cost seconds.
_SMALL_IMAGE = 3 * 64 * 64


def find_batching(compute: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> Batching:
    """Return how to batch `compute` (rows to rows) so that a row's bits do not depend on its neighbours or its place.

    `images` (N, C, H, W) are repeated as needed. Whatever `compute` raises for a batch of more than one row is taken
    to mean that it wants one row at a time.
    """
    rows = batch if images[0].numel() <= _SMALL_IMAGE and batch > _ROWS else _ROWS
    try:
        return next((tried for tried in _TRIED if _independent(compute, images, tried, rows)), _ONE_BY_ONE)
    except Exception:
        return _ONE_BY_ONE


def find_gradient_batching(model: Differentiable, images: Tensor) -> Batching:
    """Return how to batch a network so that neither a row's scores nor their gradient depend on its neighbours."""
    free = replace(model, batching=Batching(minimum=1), batch=max(model.batch, _ROWS))

    def compute(rows: Tensor) -> Tensor:
        logits, gradient = free.gradient(rows, _top_score)
        return torch.cat([logits, gradient.flatten(1)], 1)

    return find_batching(compute, images, model.batch)


def _top_score(logits: Tensor) -> Tensor:
    return logits.amax(1)


def _independent(compute: Callable[[Tensor], Tensor], images: Tensor, batching: Batching, batch: int) -> bool:
    def run(some: Tensor) -> Tensor:
        return batching.pick(compute(batching.fill(some)), len(some))

    rows = _repeat(images, batching.chunk(batch))
    few = max(1, batching.minimum // batching.copies)
    together = run(rows)
    return torch.equal(together[-few:], run(rows[-few:])) and torch.equal(together, run(rows.flip(0)).flip(0))


def _repeat(images: Tensor, rows: int) -> Tensor:
    return images[torch.arange(rows, device=images.device) % len(images)]


class InFixedBatches(nn.Module):
    """Feeds a network that insists on its batch size; the last batch is filled up with its last image."""

    def __init__(self, graph: nn.Module, size: int) -> None:
        super().__init__()
        self.graph = graph
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Return scores (N, ...) for images (N, ...), N at least 1."""
        scores = []
        for start in range(0, len(images), self.size):
            rows = images[start : start + self.size]
            filling = rows[-1:].expand(self.size - len(rows), *rows.shape[1:])
            scores.append(self.graph(torch.cat([rows, filling]))[: len(rows)])
        return torch.cat(scores)
