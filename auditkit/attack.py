"""The commonest check: an attack. Its author searches; the core drives, enforces the budget and judges success."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, final

from torch import Tensor

from auditkit.artifacts import CLEAN_LOGITS
from auditkit.attack_findings import attack_findings
from auditkit.campaign import Campaign, Trail
from auditkit.check import Curve, Findings, FlagRule, Metric, Spec
from auditkit.context import Context
from auditkit.drive import Job, drive
from auditkit.models.base import Model
from auditkit.origin import Origin
from auditkit.queries import Expectation, Goal, Queries
from auditkit.samples import Samples
from auditkit.streams import Streams
from auditkit.threat import Norm, ThreatModel

__all__ = ["ATTACK_CURVES", "ATTACK_FLAGS", "ATTACK_METRICS", "CONTROL_METRIC", "Attack", "cascade"]

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
    Metric(
        "steps_to_success", "steps", "Steps until the success at the smallest fooling budget", "mean", among="fooled"
    ),
    Metric("lost_to_rounding", "lost_to_rounding", "Successes that 8-bit storage (PNG) undoes", among="fooled"),
    Metric("lost_to_jpeg", "lost_to_jpeg", "Successes that a JPEG of quality 90 undoes", among="fooled"),
    Metric("overstepped", "overstepped", "Queries outside the budget, an image", "mean"),
)
"""What every attack reports; put them into the spec."""

CONTROL_METRIC = Metric(
    "control_success_rate", "fooled_by_chance", "Fooled by the same means without aim", among="clean_correct"
)
"""What an attack with a `control` reports beside."""

ATTACK_CURVES = (Curve("robust_accuracy", "Robust accuracy over the budget", "budget"),)

ATTACK_FLAGS = (
    FlagRule(
        "attack.rounding",
        "lost_to_rounding",
        above=0.5,
        text="Most of the attacked images fool the model no more once they are stored with 8 bits a colour.",
        remedy="Nothing is wrong with the model. Read the result as one about images in memory; a larger budget, in "
        "whole steps of 1/255, tells about files.",
    ),
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
    def goal(self) -> Goal:
        """Which success counts: the `first`, the `nearest` (rows then have no budget), or the `strongest`."""
        return "first"

    @property
    def marks(self) -> tuple[str, ...]:
        """Names of the numbers that the attack says of a query; those of the success that counts become columns."""
        return ()

    @property
    def expectation(self) -> Expectation | None:
        """What every gradient is averaged over; None: nothing. Best with the goal `strongest`."""
        return None

    @property
    @abstractmethod
    def norm(self) -> Norm:
        """How the budget is measured."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """How often a row is stepped before the search is given up."""

    @abstractmethod
    def start(self, origin: Origin) -> Any:
        """Return the first state of these rows."""

    def scout(self, model: Queries, state: Any) -> Any:
        """Look at the model once before the first step, and return the state with what was learned."""
        return state

    def control(self, origin: Origin) -> Tensor | None:
        """Return images (N, C, H, W) changed by mere chance, inside the budget; None where chance has its own check."""
        return None

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
        return cascade((self,), model, samples, ctx)


def cascade(attacks: Sequence[Attack], model: Model, samples: Samples, ctx: Context) -> Findings:
    """Run attacks one after the other, each on what the earlier ones left, and judge the worst case of each sample.

    The attacks share one norm and the same budgets. Column `attack` says which of them was first to fool at the
    smallest budget that fools (-1: none did).

    Raises:
        TypeError: their norms or budgets differ.
    """
    first = attacks[0]
    if any(attack.norm != first.norm or attack.eps != first.eps for attack in attacks):
        raise TypeError("the attacks of a cascade share one norm and the same budgets")
    clean_logits = ctx.shelf.get(CLEAN_LOGITS)
    correct = clean_logits.argmax(1) == samples.labels
    rows = correct.nonzero().flatten().tolist()
    ctx.progress(len(samples) - len(rows))
    trails = {row: Trail(fooled_from=len(first.eps)) for row in rows}
    for number, attack in enumerate(attacks):
        last = number == len(attacks) - 1
        campaign = Campaign(
            eps=first.eps,
            samples=samples,
            trails=trails,
            norm=attack.norm,
            nearest=attack.goal == "nearest",
            restarts=attack.restarts,
            attack=number,
            progress=ctx.progress if last else _unheard,
        )

        def streams(jobs: Sequence[Job], number: int = number) -> Streams:
            # The same draws for every budget: a curve then compares budgets, not luck.
            ids = [f"{samples.ids[job.sample]}\0{job.restart}" for job in jobs]
            return ctx.streams(ids, str(number) if number else "")

        drive(attack, campaign, samples, clean_logits, model, ctx.search, streams, ctx.batch, ctx.check_time)
    return attack_findings(first, trails, samples, correct, model, ctx)


def _unheard(samples: int) -> None:
    """Progress of an attack that others of its cascade will follow."""
