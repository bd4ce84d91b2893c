"""Which search comes next: attack after attack, and for each sample the smallest budget that fools it."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from auditkit.drive import Job, Outcome
from auditkit.samples import Samples
from auditkit.threat import Norm, tolerated

__all__ = ["Campaign", "Trail"]


@dataclass
class Trail:
    """What is known about one sample: from which budget on it is fooled, by which attack, and what it cost."""

    fooled_from: int
    """Index of the smallest budget that is known to fool; the number of budgets if none does."""
    best: Outcome | None = None
    """The nearest success."""
    attack: int = -1
    """Which attack was first to fool at `fooled_from` (or beyond all budgets); -1: none."""
    steps: int = 0
    steps_to_best: int = 0
    forwards: int = 0
    backwards: int = 0
    overstepped: int = 0
    refuted: int = 0


@dataclass
class Campaign:
    """The jobs of one attack, and what all attacks so far have found.

    A success at one budget is one at every larger budget. Each sample is therefore attacked at the largest budget that
    is still open; a success leads to the next smaller one, from the point that was found, scaled into it. The first
    budget at which an attack fails, with all its restarts, is its last: so a sweep over many budgets pays for one
    failing search a sample, as a single budget does.
    """

    eps: Sequence[float]
    samples: Samples
    trails: dict[int, Trail]
    """What is known, by number of the sample."""
    norm: Norm
    nearest: bool
    restarts: int
    attack: int
    progress: Callable[[int], None]
    waiting: deque[Job] = field(default_factory=deque)

    def __post_init__(self) -> None:
        for sample in self.trails:
            self._ask(sample, 0)

    def next(self) -> Job | None:
        """Return a job, None while there is none."""
        return self.waiting.popleft() if self.waiting else None

    def report(self, outcome: Outcome) -> None:
        """Take note of how a job ended, and think of the next one for its sample."""
        sample = outcome.job.sample
        trail = self.trails[sample]
        trail.steps += outcome.steps
        trail.forwards += outcome.forwards
        trail.backwards += outcome.backwards
        trail.overstepped += outcome.overstepped
        trail.refuted += outcome.refuted
        if outcome.fooled:
            self._note_success(trail, outcome)
        retry = self.nearest or not outcome.fooled
        restart = outcome.job.restart + 1 if retry else 0
        if restart < self.restarts:
            self._ask(sample, restart)
        else:
            self.progress(1)

    def _note_success(self, trail: Trail, outcome: Outcome) -> None:
        reached = len(self.eps) if self.nearest else self.eps.index(outcome.job.eps)
        if self.norm != "free":
            reached = min(reached, bisect_left(self.eps, outcome.distance, key=tolerated))
        further = reached < trail.fooled_from
        if trail.best is None or further or outcome.distance < trail.best.distance:
            trail.attack = self.attack if trail.best is None or further else trail.attack
            trail.best, trail.steps_to_best = outcome, trail.steps
            trail.fooled_from = min(reached, trail.fooled_from)

    def _ask(self, sample: int, restart: int) -> None:
        trail = self.trails[sample]
        if trail.fooled_from == 0 and not (self.nearest and restart):
            self.progress(1)
        elif self.nearest:
            self.waiting.append(Job(sample, float("inf"), restart))
        else:
            eps = self.eps[trail.fooled_from - 1]
            point = self._warm_point(sample, eps) if restart == 0 else None
            smaller = tuple(self.eps[: trail.fooled_from - 1]) if point is None and self._scales else ()
            self.waiting.append(Job(sample, eps, restart, point, smaller))

    @property
    def _scales(self) -> bool:
        """Whether a change that is made smaller as a whole also gets smaller in this norm."""
        return self.norm in ("linf", "l2", "l1")

    def _warm_point(self, sample: int, eps: float) -> Tensor | None:
        best = self.trails[sample].best
        if best is None or not self._scales:
            return None
        return torch.lerp(self.samples.images[sample], best.image, eps / max(best.distance, eps))
