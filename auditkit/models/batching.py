"""Finds out which batch sizes keep a row's result independent of the rows beside it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from auditkit.models.base import Batching

__all__ = ["InFixedBatches", "find_batching"]

_ROWS = 32
_MINIMUM = Batching().minimum
_FIXED = 32
# Small images are also tried in a full batch; for large ones that would cost seconds.
_SMALL_IMAGE = 3 * 64 * 64


def find_batching(compute: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> Batching:
    """Return how to batch `compute` (rows to rows) so that a row's bits do not depend on its neighbours.

    `images` (N, C, H, W) are repeated as needed. Whatever `compute` raises for a batch of more than one row is taken
    to mean that it wants one row at a time.
    """
    rows = _repeat(images, batch if images[0].numel() <= _SMALL_IMAGE and batch > _ROWS else _ROWS)
    try:
        together = compute(rows)
        few = compute(rows[-_MINIMUM:])
    except Exception:
        return Batching(minimum=1, fixed=1)
    other_order = compute(rows.flip(0)).flip(0)
    if torch.equal(together[-_MINIMUM:], few) and torch.equal(together, other_order):
        return Batching(minimum=_MINIMUM)
    return Batching(fixed=_FIXED)


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
