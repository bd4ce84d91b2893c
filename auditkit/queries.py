"""What an attack may ask of the model; every query is counted, and the first success in it is kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from auditkit.errors import ExecutionError
from auditkit.models.base import Differentiable, Model
from auditkit.threat import Norm, allowed, distance

__all__ = ["Queries"]


class Queries:
    """The model as an attack sees it during one step.

    Rows of images belong to the rows of the attack's state. Several candidates a row may be asked about at once,
    those of one row beside each other: (N * P, C, H, W). Success is noticed here, at query time, whatever the attack
    makes of it; a query outside the budget earns nothing and is counted.
    """

    def __init__(
        self,
        search: Differentiable | None,
        model: Model,
        clean: Tensor,
        labels: Tensor,
        eps: Tensor,
        norm: Norm,
        reach: Tensor | None = None,
    ) -> None:
        self._search = search
        self._model = model
        self._clean = clean
        self._labels = labels
        self._eps = eps
        self._norm = norm
        self.reach = reach
        """float32 (N,): only successes nearer than this are of use. None: every one inside the budget is."""
        self.forwards = 0
        """Forward passes so far, per row."""
        self.backwards = 0
        self.found = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
        """bool (N,): a query inside the budget fooled the search copy."""
        self.candidates = clean
        """(N, C, H, W): the first such query of each row that has one; the nearest, where nearness counts."""
        self.overstepped = torch.zeros(len(clean), dtype=torch.int64, device=clean.device)
        """int64 (N,): queries that fooled the search copy from outside the budget."""

    def logits(self, images: Tensor) -> Tensor:
        """Return float32 (N * P, K) for images in [0, 1]; one forward pass each."""
        with torch.no_grad():
            scores = self._search.logits(images) if self._search is not None else self._model.logits(images)
        self._note(images, scores)
        self.forwards += len(images) // len(self._clean)
        return scores

    def gradient(self, images: Tensor, loss: Callable[..., Tensor], *aligned: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N * P, K) and the gradient of each image's `loss(logits, *aligned)`; one pass each way.

        Raises:
            ExecutionError: the model gives no gradients (an attack that asks for them declares it in its spec).
        """
        if self._search is None:
            raise ExecutionError("the attack asks for gradients, which its spec does not declare as needed")
        scores, gradient = self._search.gradient(images, loss, *aligned)
        self._note(images.detach(), scores)
        self.forwards += len(images) // len(self._clean)
        self.backwards += len(images) // len(self._clean)
        return scores, gradient

    def _note(self, images: Tensor, scores: Tensor) -> None:
        rows = len(self._clean)
        if len(images) % rows:
            raise TypeError(f"a query holds the same number of images for each of the {rows} rows; got {len(images)}")
        each = len(images) // rows
        fooled = scores.argmax(1).view(rows, each) != self._labels.unsqueeze(1)
        hits = fooled.nonzero()
        if not len(hits):
            return
        row, which = hits[:, 0], hits[:, 1]
        points = images.view(rows, each, *images.shape[1:])[row, which]
        legal = allowed(self._norm, self._eps[row], self._clean[row], points)
        self.overstepped.index_add_(0, row, (~legal).long())
        new = legal & ~self.found[row] if self.reach is None else legal
        row, points = row[new], points[new]
        if self.reach is not None and len(row):
            row, points = self._nearer(row, points)
        if each > 1 and len(row):
            first = torch.ones_like(row, dtype=torch.bool)
            first[1:] = row[1:] != row[:-1]
            row, points = row[first], points[first]
        if len(row):
            self.candidates = self.candidates.index_copy(0, row, points)
            self.found[row] = True

    def _nearer(self, row: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Keep what improves on each row's reach, the nearest of a row first, and shorten the reach."""
        assert self.reach is not None  # noqa: S101 (the caller looked)
        away = distance(self._norm, self._clean[row], points)
        better = (away < self.reach[row]) & (away > 0)
        row, points, away = row[better], points[better], away[better]
        by_distance = away.argsort(stable=True)
        order = by_distance[row[by_distance].argsort(stable=True)]
        self.reach = self.reach.scatter_reduce(0, row, away, "amin")
        return row[order], points[order]
