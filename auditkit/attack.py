"""The commonest check: an attack. Its author searches; the core drives, enforces the budget and judges success."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, final

import numpy as np
import torch
from torch import Tensor

from auditkit.artifacts import CLEAN_LOGITS
from auditkit.budgets import budget_text
from auditkit.check import Curve, Findings, FlagRule, Metric, Spec
from auditkit.context import Context
from auditkit.drive import Job, Outcome, drive
from auditkit.exhibits import attack_exhibits
from auditkit.models.base import Model
from auditkit.queries import Queries
from auditkit.samples import Samples
from auditkit.streams import Streams
from auditkit.threat import Norm, ThreatModel, distance

__all__ = ["ATTACK_CURVES", "ATTACK_FLAGS", "ATTACK_METRICS", "Attack"]

ATTACK_METRICS = (
    Metric("clean_accuracy", "clean_correct", "Correct on the unperturbed images"),
    Metric("robust_accuracy", "robust", "Correct on the unperturbed and on the attacked images"),
    Metric("attack_success_rate", "fooled", "Fooled, of the images that were correct", among="clean_correct"),
    Metric(
        "distance",
        "distance",
        "How far the successful images lie from the clean ones",
        "mean",
        among="fooled",
    ),
    Metric("steps_to_success", "steps", "Steps until the first success", "mean", among="fooled"),
    Metric("overstepped", "overstepped", "Queries outside the budget, an image", "mean"),
)
"""What every attack reports; put them into the spec."""

ATTACK_CURVES = (Curve("robust_accuracy", "Robust accuracy over the budget", "budget"),)

ATTACK_FLAGS = (
    FlagRule(
        "attack.overstepped",
        "overstepped",
        above=0.0,
        text="The attack tried images outside its budget. They were not counted, so its success is understated.",
        remedy="A fault of the attack, not of the model: report it to the attack's author.",
    ),
)


class Attack(ABC):
    """A search for misclassified images near the clean ones.

    An author declares the options as fields of a frozen dataclass, and writes `start` and `step` over a state: a
    dataclass of tensors with one row a sample, one of them `images`, the point that the row stands at. Rows of
    different age share a batch, so every schedule is kept in the state, and nothing may be read across rows. A state
    may have a field `given_up`, bool (N,), for rows that shall not be stepped further.
    """

    spec: ClassVar[Spec]
    eps: tuple[float, ...]
    """The budgets, smallest first; several give a curve."""
    restarts: int = 1

    @property
    @abstractmethod
    def norm(self) -> Norm:
        """How the budget is measured."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """How often a row is stepped before the search is given up."""

    @abstractmethod
    def start(self, images: Tensor, labels: Tensor, eps: Tensor, rng: Streams) -> Any:
        """Return the first state for images (N, C, H, W) in [0, 1], labels (N,), budgets (N,), a stream a row."""

    @abstractmethod
    def step(self, model: Queries, state: Any) -> Any:
        """Return the next state; `model` answers queries about N (or N * P) images."""

    @property
    def threat_models(self) -> tuple[ThreatModel, ...]:
        """What the attacker may do, smallest budget first."""
        return tuple(ThreatModel(self.norm, eps) for eps in self.eps)

    @final
    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Attack every sample that is classified correctly, and let the deployed model judge."""
        clean_logits = ctx.shelf.get(CLEAN_LOGITS)
        correct = clean_logits.argmax(1) == samples.labels
        rows = correct.nonzero().flatten().tolist()
        ctx.progress(len(samples) - len(rows))
        search = _Bisection(self.eps, self.restarts, rows, ctx.progress)

        def streams(jobs: Sequence[Job]) -> Streams:
            # The same draws for every budget: a curve then compares budgets, not luck.
            ids = [f"{samples.ids[job.sample]}\0{job.restart}" for job in jobs]
            return ctx.streams(ids)

        drive(self, search, samples, model, ctx.search, streams, ctx.batch, ctx.check_time)
        return _findings(self, search, samples, correct, model, ctx)


@dataclass
class _Trail:
    """What is known about one sample: which budgets failed, which succeed, and the best point."""

    failed_below: int
    fooled_from: int
    restart: int = 0
    best: Outcome | None = None
    steps: int = 0
    forwards: int = 0
    backwards: int = 0
    overstepped: int = 0
    refuted: int = 0


@dataclass
class _Bisection:
    """Finds, sample by sample, the smallest budget that fools: a success at one budget is one at every larger."""

    eps: tuple[float, ...]
    restarts: int
    samples: Sequence[int]
    progress: Callable[[int], None]
    trails: dict[int, _Trail] = field(default_factory=dict)
    waiting: deque[Job] = field(default_factory=deque)

    def __post_init__(self) -> None:
        for sample in self.samples:
            self.trails[sample] = _Trail(0, len(self.eps))
            self._ask(sample)

    def next(self) -> Job | None:
        return self.waiting.popleft() if self.waiting else None

    def report(self, outcome: Outcome) -> None:
        trail = self.trails[outcome.job.sample]
        trail.forwards += outcome.forwards
        trail.backwards += outcome.backwards
        trail.overstepped += outcome.overstepped
        trail.refuted += outcome.refuted
        tried = self.eps.index(outcome.job.eps)
        if outcome.fooled:
            trail.fooled_from, trail.best, trail.restart = tried, outcome, 0
        elif trail.restart + 1 < self.restarts:
            trail.restart += 1
        else:
            trail.failed_below, trail.restart = tried + 1, 0
        self._ask(outcome.job.sample)

    def _ask(self, sample: int) -> None:
        trail = self.trails[sample]
        if trail.failed_below < trail.fooled_from:
            middle = (trail.failed_below + trail.fooled_from) // 2
            self.waiting.append(Job(sample, self.eps[middle], trail.restart))
        else:
            self.progress(1)


def _findings(
    attack: Attack, search: _Bisection, samples: Samples, correct: Tensor, model: Model, ctx: Context
) -> Findings:
    n = len(samples)
    trails = search.trails
    clean_correct = correct.cpu().numpy()
    fooled_from = np.full(n, len(attack.eps))
    steps = np.full(n, np.nan)
    attacked = samples.images.clone()
    logits = ctx.shelf.get(CLEAN_LOGITS).clone()
    for row, trail in trails.items():
        fooled_from[row] = trail.fooled_from
        if trail.best is not None:
            attacked[row], logits[row] = trail.best.image, trail.best.logits
            steps[row] = trail.best.steps
    fooled = clean_correct & (fooled_from < len(attack.eps))
    moved = distance(attack.norm, samples.images, attacked).double().cpu().numpy()
    columns: dict[str, np.ndarray[Any, Any]] = {
        "clean_correct": clean_correct,
        "robust": clean_correct & ~fooled,
        "fooled": fooled,
        "distance": np.where(fooled, moved, np.nan),
        "steps": steps,
        "attacked_label": logits.argmax(1).cpu().numpy(),
    }
    for index, eps in enumerate(attack.eps):
        by_now = clean_correct & (fooled_from <= index)
        columns[f"robust@{budget_text(eps)}"] = clean_correct & ~by_now
        columns[f"fooled@{budget_text(eps)}"] = by_now
    for name in ("overstepped", "refuted"):
        columns[name] = _account(trails, n, name)
    return Findings(
        columns,
        attack_exhibits(samples, attacked, logits, torch.from_numpy(fooled), model, ctx),
        forwards=_account(trails, n, "forwards") + 1,
        backwards=_account(trails, n, "backwards"),
    )


def _account(trails: dict[int, _Trail], n: int, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([getattr(trails[row], name) if row in trails else 0 for row in range(n)], dtype=np.int64)
