"""Auto-PGD: gradient ascent that shortens its own steps where they no longer help."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from auditkit import (
    ATTACK_CURVES,
    ATTACK_FLAGS,
    ATTACK_METRICS,
    Attack,
    Budgets,
    Capability,
    Expectation,
    Goal,
    Origin,
    Queries,
    Spec,
)
from auditkit_plugins.eot import Draws, goal_under, photographs

__all__ = ["APGD", "APGDState", "Climb"]

_MOMENTUM = 0.75
_FIRST_STEP = 2.0
# Checkpoints, as shares of all steps: the first interval, by how much each is shorter than the last, the shortest.
_FIRST_INTERVAL, _SHRINKS_BY, _SHORTEST_INTERVAL = 0.22, 0.03, 0.06
_SHARE_OF_ENTROPY = 0.1
_SMALLEST_SCALE = 1e-12

# How often hope is judged, how many looks without hope end a search, and what a row may still gain, as a share of what
# it has gained so far, while its steps have their first length. docs/checks/noise.apgd.md says what this cost.
_STEPS_BETWEEN_LOOKS = 4
_HOPELESS_LOOKS = 2
_STILL_TO_GAIN = 0.4


@dataclass(frozen=True)
class Climb:
    """How high each row has climbed, how long its steps are, and what decides whether they become shorter."""

    best: Tensor
    """(N, C, H, W): the point of the highest loss."""
    gradient: Tensor
    """(N, C, H, W): the gradient there."""
    loss: Tensor
    """(N,): the highest loss."""
    last_loss: Tensor
    size: Tensor
    """(N,): length of a step."""
    interval: Tensor
    """int64 (N,): steps from the last checkpoint to the next."""
    since: Tensor
    """int64 (N,): steps since the last checkpoint."""
    increases: Tensor
    """int64 (N,): how many of them raised the loss."""
    loss_at_checkpoint: Tensor
    """(N,): what `loss` was at the last checkpoint."""
    shortened: Tensor
    """bool (N,): the last checkpoint shortened the steps."""


@dataclass(frozen=True)
class APGDState:
    """Where each row stands, what it may not leave, and how far it has come."""

    images: Tensor
    previous: Tensor
    """(N, C, H, W): the point before, for the momentum."""
    clean: Tensor
    labels: Tensor
    targets: Tensor
    """int64 (N,): the class that a targeted loss aims at."""
    eps: Tensor
    step: Tensor
    climb: Climb
    clean_gap: Tensor
    """(N,): what `gap` is for the clean image."""
    gap: Tensor
    """(N,): the true logit minus the target's (untargeted: minus the largest other), the smallest so far."""
    hopeless_looks: Tensor
    """int64 (N,): at how many looks in a row there was no hope."""
    given_up: Tensor
    """bool (N,): the driver takes these rows out."""


@dataclass(frozen=True)
class APGD(Attack):
    """Climb a loss with momentum; at checkpoints, halve the step of a poor climb and go back to its best point.

    With `give_up`, a row is left when two looks in a row find that it is further from success than it could still come
    by shorter steps.
    """

    spec: ClassVar[Spec] = Spec(
        id="noise.apgd",
        title="Predictions withstand low-amplitude noise from a search that tunes itself",
        why=(
            "A search with a badly chosen step length finds little and makes a model look robust. This one chooses "
            "its step lengths by itself, for each image, and so leaves less to luck and to whoever sets the options. "
            "It is the core of AutoAttack, the usual yardstick of published robustness, so its figures can be "
            "compared with those of others. Like any search it bounds robustness from above."
        ),
        metrics=ATTACK_METRICS,
        needs=frozenset({Capability.GRADIENTS}),
        curves=ATTACK_CURVES,
        flags=ATTACK_FLAGS,
        references=(
            "Croce and Hein 2020, https://arxiv.org/abs/2003.01690",
            "Carlini and Wagner 2017 (the margin loss), https://arxiv.org/abs/1608.04644",
        ),
        presets={
            "full": {"eps": "0.25/255, 0.5/255, 1/255, 2/255, 4/255, 8/255, 16/255", "starts": 5},
        },
    )

    eps: Budgets = (8 / 255,)
    norm: Literal["linf", "l2"] = "linf"
    steps: Annotated[int, Field(ge=1)] = 100
    starts: Annotated[int, Field(ge=1)] = 1
    """Independent random starts; of a targeted loss, for each target."""
    targets: Annotated[int, Field(ge=1)] = 9
    """Of a targeted loss: how many other classes it aims at, those of the highest logits of the clean image."""
    loss: Literal["both", "cross_entropy", "margin", "dlr", "targeted_margin", "targeted_dlr"] = "both"
    """What is climbed. Both: the margin, by gradients of the cross-entropy for the first tenth of the steps."""
    rho: Annotated[float, Field(ge=0, le=1)] = 0.75
    """A climb is poor when no more than this share of the steps since the last checkpoint raised the loss."""
    give_up: bool = True
    """Whether rows without hope are left early."""
    eot: Draws = 0
    """Over how many random photographs of the image each gradient is averaged (`true`: 4), to find what survives a
    camera; the success that fools them most clearly is kept. 0: none."""

    @property
    def goal(self) -> Goal:
        """The first success; under photographs the strongest."""
        return goal_under(self.eot)

    @property
    def expectation(self) -> Expectation | None:
        """Photographs, if wanted."""
        return photographs(self.eot)

    @property
    def restarts(self) -> int:  # type: ignore[override]  # a field of most attacks; here it follows from two others
        """How many searches an image gets at most."""
        return self.starts * self.targets if self._targeted else self.starts

    def start(self, origin: Origin) -> APGDState:
        """Start at a random point at the edge of the ball, or where a larger budget succeeded."""
        images, labels, eps = origin.images, origin.labels, origin.eps
        if self.norm == "linf":
            draw = 2 * origin.rng.uniform(0, images.shape[1:]) - 1
            offset = draw * _column(eps / draw.flatten(1).abs().amax(1).clamp_min(_SMALLEST_SCALE))
        else:
            draw = origin.rng.normal(0, images.shape[1:])
            offset = draw * _column(eps / _length(draw))
        points = torch.where(_column(origin.warm), origin.points, (images + offset).clamp(0, 1))
        others = min(self.targets, origin.logits.shape[1] - 1)
        targets = _target(origin.logits, labels, origin.restart % others)
        none = torch.zeros_like(labels)
        return APGDState(
            images=points,
            previous=points,
            clean=images,
            labels=labels,
            targets=targets,
            eps=eps,
            step=none,
            climb=self._first_climb(points, eps, none),
            clean_gap=self._gap(origin.logits, labels, targets),
            gap=torch.full_like(eps, torch.inf),
            hopeless_looks=none,
            given_up=none.bool(),
        )

    def step(self, model: Queries, state: APGDState) -> APGDState:
        """Ask about the point, then move on from it, or from the best point where the climb was poor."""
        aligned = state.labels, state.targets, state.step
        logits, gradient = model.gradient(state.images, self._loss, *aligned)
        climb = _climbed(state.climb, state.images, gradient, self._score(logits, *aligned))
        climb, back = self._pass_checkpoint(climb)
        here = torch.where(_column(back), climb.best, state.images)
        uphill = torch.where(_column(back), climb.gradient, gradient)
        before = torch.where(_column(back), state.images, state.previous)
        direction = uphill.sign() if self.norm == "linf" else uphill / _column(_length(uphill))
        ahead = self._project(here + direction * _column(climb.size), state)
        share = _column(torch.where(state.step > 0, _MOMENTUM, 1.0))
        images = self._project(here + share * (ahead - here) + (1 - share) * (here - before), state)
        state = replace(state, images=images, previous=here, step=state.step + 1, climb=climb)
        return self._judge_hope(state, logits)

    def _first_climb(self, points: Tensor, eps: Tensor, none: Tensor) -> Climb:
        lowest = torch.full_like(eps, -torch.inf)
        return Climb(
            best=points,
            gradient=torch.zeros_like(points),
            loss=lowest,
            last_loss=-lowest,  # the first point is no increase
            size=_FIRST_STEP * eps,
            interval=none + max(int(_FIRST_INTERVAL * self.steps), 1),
            since=none - 1,  # nor is it a step
            increases=none,
            loss_at_checkpoint=lowest,
            shortened=~none.bool(),  # the first checkpoint looks at the increases alone
        )

    def _pass_checkpoint(self, climb: Climb) -> tuple[Climb, Tensor]:
        """Return the climb with the step halved where it was poor, and bool (N,): where that is."""
        due = climb.since == climb.interval
        oscillates = climb.increases <= self.rho * climb.interval
        stands_still = ~climb.shortened & (climb.loss <= climb.loss_at_checkpoint)
        back = due & (oscillates | stands_still)
        shrinks_by, shortest = (max(int(share * self.steps), 1) for share in (_SHRINKS_BY, _SHORTEST_INTERVAL))
        passed = replace(
            climb,
            last_loss=torch.where(back, climb.loss, climb.last_loss),
            size=torch.where(back, climb.size / 2, climb.size),
            interval=torch.where(due, (climb.interval - shrinks_by).clamp_min(shortest), climb.interval),
            since=torch.where(due, 0, climb.since),
            increases=torch.where(due, 0, climb.increases),
            loss_at_checkpoint=torch.where(due, climb.loss, climb.loss_at_checkpoint),
            shortened=torch.where(due, back, climb.shortened),
        )
        return passed, back

    def _project(self, points: Tensor, state: APGDState) -> Tensor:
        bound = _column(state.eps)
        if self.norm == "linf":
            inside = torch.minimum(torch.maximum(points, state.clean - bound), state.clean + bound)
        else:
            offset = points - state.clean
            inside = state.clean + offset * (bound / _column(_length(offset))).clamp(max=1)
        return inside.clamp(0, 1)

    def _loss(self, logits: Tensor, labels: Tensor, targets: Tensor, step: Tensor) -> Tensor:
        """Return (N,): what the gradient is taken of."""
        if self.loss in ("both", "cross_entropy"):
            entropy = functional.cross_entropy(logits, labels, reduction="none")
            if self.loss == "cross_entropy":
                return entropy
            return torch.where(step < self._entropy_steps, entropy, -_margin(logits, labels))
        lead = -self._gap(logits, labels, targets)
        if self.loss == "dlr":
            return lead / _spread(logits, ranks=3)
        return lead / _spread(logits, ranks=4) if self.loss == "targeted_dlr" else lead

    def _score(self, logits: Tensor, labels: Tensor, targets: Tensor, step: Tensor) -> Tensor:
        """Return (N,): by what points are compared, the same at every step."""
        return -_margin(logits, labels) if self.loss == "both" else self._loss(logits, labels, targets, step)

    @property
    def _entropy_steps(self) -> float:
        return self.steps * _SHARE_OF_ENTROPY if self.loss == "both" else 0

    @property
    def _targeted(self) -> bool:
        return self.loss in ("targeted_margin", "targeted_dlr")

    def _gap(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        return _of_class(logits, labels) - _of_class(logits, targets) if self._targeted else _margin(logits, labels)

    def _judge_hope(self, state: APGDState, logits: Tensor) -> APGDState:
        gap = torch.minimum(state.gap, self._gap(logits, state.labels, state.targets))
        if not self.give_up:
            return replace(state, gap=gap)
        # What shorter steps add to a climb is in proportion to how long the steps are that it circles the top with.
        shortened_to = state.climb.size / (_FIRST_STEP * state.eps)
        within_reach = _STILL_TO_GAIN * (state.clean_gap - gap) * shortened_to
        hopeless = torch.where(gap > within_reach, state.hopeless_looks + 1, 0)
        look = (state.step % _STEPS_BETWEEN_LOOKS == 0) & (state.step > self._entropy_steps)
        looks = torch.where(look, hopeless, state.hopeless_looks)
        return replace(state, gap=gap, hopeless_looks=looks, given_up=looks >= _HOPELESS_LOOKS)


def _climbed(climb: Climb, images: Tensor, gradient: Tensor, loss: Tensor) -> Climb:
    better = loss > climb.loss
    return replace(
        climb,
        best=torch.where(_column(better), images, climb.best),
        gradient=torch.where(_column(better), gradient, climb.gradient),
        loss=torch.where(better, loss, climb.loss),
        last_loss=loss,
        since=climb.since + 1,
        increases=climb.increases + (loss > climb.last_loss),
    )


def _target(logits: Tensor, labels: Tensor, rank: Tensor) -> Tensor:
    """Return int64 (N,): the class that comes `rank` places (N,) behind the highest of the other classes."""
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf).argsort(dim=1, descending=True, stable=True)
    return _of_class(others, rank)


def _spread(logits: Tensor, ranks: int) -> Tensor:
    """Return (N,): the denominator of the difference of logits ratio, over so many highest logits.

    Of three, the first minus the third; of four, the first minus the mean of the third and fourth, where there are
    four. Two classes have nothing to compare their difference with: 1.
    """
    top = logits.topk(min(ranks, logits.shape[1]), dim=1).values
    if top.shape[1] < 3:
        return torch.ones_like(top[:, 0])
    return (top[:, 0] - top[:, 2:].mean(1)).clamp_min(_SMALLEST_SCALE)


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    return _of_class(logits, labels) - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)


def _of_class(values: Tensor, classes: Tensor) -> Tensor:
    return values.gather(1, classes.unsqueeze(1)).squeeze(1)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _length(vectors: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vectors.flatten(1), dim=1)
    return length.clamp_min(_SMALLEST_SCALE)
