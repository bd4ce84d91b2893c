"""What an attack may ask of the model; every query is counted, and the first success in it is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from auditkit.errors import ExecutionError
from auditkit.models.base import Differentiable, Model
from auditkit.streams import Streams
from auditkit.threat import Norm, allowed, distance

__all__ = ["Expectation", "Goal", "Queries"]

Goal = Literal["first", "nearest", "strongest"]


@dataclass(frozen=True)
class Expectation:
    """What gradients are averaged over: random transforms of each image (EOT, Athalye et al. 2018)."""

    transform: Callable[[Tensor, Streams, Tensor], Tensor]
    """Images (M, C, H, W) in [0, 1], a random stream each and a number each, int64 (M,), to differentiable images."""
    draws: int
    """How many transforms of each image are drawn at each step."""


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
        goal: Goal = "first",
        reach: Tensor | None = None,
        marks: int = 0,
        expectation: Expectation | None = None,
        rng: Streams | None = None,
        step: Tensor | None = None,
    ) -> None:
        self._search = search
        self._model = model
        self._clean = clean
        self._labels = labels
        self._eps = eps
        self._norm = norm
        self._goal = goal
        self._expectation = expectation
        self._rng = rng
        self._step = step
        self.reach = torch.full_like(eps, torch.inf) if reach is None else reach
        """float32 (N,): how good the best success so far is, smaller is better: its distance where the goal is the
        nearest one, its margin where it is the strongest; infinite before there is one."""
        self.forwards = 0
        """Forward passes so far, per row."""
        self.backwards = 0
        self.found = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
        """bool (N,): a query inside the budget fooled the search copy."""
        self.candidates = clean
        """(N, C, H, W): the first, nearest or strongest such query of each row that has one."""
        self.marks = clean.new_full((len(clean), marks), torch.nan)
        """float32 (N, M): the marks of that query."""
        self.overstepped = torch.zeros(len(clean), dtype=torch.int64, device=clean.device)
        """int64 (N,): queries that fooled the search copy from outside the budget."""

    @property
    def differentiable(self) -> bool:
        """Whether `gradient` may be asked."""
        return self._search is not None

    def logits(self, images: Tensor, marks: Tensor | None = None, worth: Tensor | None = None) -> Tensor:
        """Return float32 (N * P, K) for images in [0, 1]; one forward pass each.

        `marks` (N * P, M) describe the images in the numbers that the attack named. `worth` (N * P,) says how good each
        would be as a success where the goal is the strongest one, smaller being better; without it that is its margin.
        """
        with torch.no_grad():
            scores = self._search.logits(images) if self._search is not None else self._model.logits(images)
        self._note(images, scores, marks, worth)
        self.forwards += len(images) // len(self._clean)
        return scores

    def gradient(self, images: Tensor, loss: Callable[..., Tensor], *aligned: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N * P, K) and the gradient of each image's `loss(logits, *aligned)`; one pass each way.

        Under an expectation both are means over transforms of the image, each with a pass each way; one more forward
        pass tells whether the image itself fools.

        Raises:
            ExecutionError: the model gives no gradients (an attack that asks for them declares it in its spec).
        """
        if self._search is None:
            raise ExecutionError("the attack asks for gradients, which its spec does not declare as needed")
        if self._expectation is not None:
            return self._expected(self._search, self._expectation, images, loss, aligned)
        scores, gradient = self._search.gradient(images, loss, *aligned)
        self._note(images.detach(), scores)
        self.forwards += len(images) // len(self._clean)
        self.backwards += len(images) // len(self._clean)
        return scores, gradient

    def _expected(
        self,
        search: Differentiable,
        expectation: Expectation,
        images: Tensor,
        loss: Callable[..., Tensor],
        aligned: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor]:
        assert self._rng is not None  # noqa: S101 (who sets an expectation sets both)
        assert self._step is not None  # noqa: S101
        rows, draws = len(self._clean), expectation.draws
        each = len(images) // rows
        # The same transforms for all candidates of a row: they are then compared, and not their luck.
        number = (self._step.unsqueeze(1) * draws + torch.arange(draws, device=images.device)).repeat(1, each)
        streams = Streams(self._rng.keys.repeat_interleave(each * draws, 0))
        with torch.enable_grad():
            copies = images.detach().repeat_interleave(draws, 0).requires_grad_(True)
            seen = expectation.transform(copies, streams, number.flatten())
            repeated = [values.repeat_interleave(draws, 0) for values in aligned]
            scores, slope = search.gradient(seen.detach(), loss, *repeated)
            (gradient,) = torch.autograd.grad(seen, copies, slope)
        scores = scores.view(len(images), draws, -1)
        plain = search.logits(images.detach())
        own = scores.gather(2, self._labels.repeat_interleave(each).view(-1, 1, 1).expand(-1, draws, 1)).squeeze(2)
        self._note(images.detach(), plain, worth=(own - scores.amax(2)).mean(1))
        self.forwards += each * (draws + 1)
        self.backwards += each * draws
        return scores.mean(1), gradient.view(len(images), draws, *images.shape[1:]).mean(1)

    def _note(self, images: Tensor, scores: Tensor, marks: Tensor | None = None, worth: Tensor | None = None) -> None:
        rows = len(self._clean)
        if len(images) % rows:
            raise TypeError(f"a query holds the same number of images for each of the {rows} rows; got {len(images)}")
        if marks is not None and marks.shape != (len(images), self.marks.shape[1]):
            wanted = (len(images), self.marks.shape[1])
            raise TypeError(f"a query of {len(images)} images has marks {wanted}; got {tuple(marks.shape)}")
        each = len(images) // rows
        fooled = scores.argmax(1) != self._labels.repeat_interleave(each)
        at = fooled.nonzero().flatten()
        if not len(at):
            return
        row = at // each
        legal = allowed(self._norm, self._eps[row], self._clean[row], images[at])
        self.overstepped.index_add_(0, row, (~legal).long())
        first = self._goal == "first"
        at = at[legal & ~self.found[row]] if first else self._better(at[legal], each, images, scores, worth)
        row = at // each
        if each > 1 and len(row):
            foremost = torch.ones_like(row, dtype=torch.bool)
            foremost[1:] = row[1:] != row[:-1]
            row, at = row[foremost], at[foremost]
        if len(row):
            self.candidates = self.candidates.index_copy(0, row, images[at])
            self.marks = self.marks.index_copy(0, row, marks[at] if marks is not None else self.marks[row] * torch.nan)
            self.found[row] = True

    def _better(self, at: Tensor, each: int, images: Tensor, scores: Tensor, worth: Tensor | None) -> Tensor:
        """Keep the queries that improve on their row's reach, the best of a row first, and shorten the reach."""
        row = at // each
        if self._goal == "nearest":
            value = distance(self._norm, self._clean[row], images[at])
            better = (value < self.reach[row]) & (value > 0)
        else:
            own = scores[at].gather(1, self._labels[row].unsqueeze(1)).squeeze(1)
            value = own - scores[at].amax(1) if worth is None else worth[at]
            better = value < self.reach[row]
        at, value = at[better], value[better]
        by_value = value.argsort(stable=True)
        order = by_value[(at[by_value] // each).argsort(stable=True)]
        self.reach = self.reach.scatter_reduce(0, at // each, value, "amin")
        return at[order]
