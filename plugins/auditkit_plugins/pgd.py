"""Projected gradient descent: the standard white-box search inside a norm ball."""

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

__all__ = ["PGD", "PGDState"]


# How often hope is judged, by how much the pace so far may be exceeded, and how many looks without hope end a search.
# On five networks (one of them int8), two norms and 25 budgets this cost none of 7220 verdicts, at a third of the
# passes. One look alone is too hasty for a quantised network, whose margin moves in jumps.
_STEPS_BETWEEN_LOOKS = 4
_PACE_ALLOWANCE = 4.0
_HOPELESS_LOOKS = 2
_SHORTEST_STEP = 0.02
# Where the schedule of a row begins that starts from a larger budget's success.
_WARM_START = 0.25
_SHARE_OF_ENTROPY = 0.1


@dataclass(frozen=True)
class PGDState:
    """Where each row stands, what it may not leave, and how far it has come."""

    images: Tensor
    clean: Tensor
    labels: Tensor
    eps: Tensor
    step: Tensor
    margin: Tensor
    """(N,): the smallest margin so far, the true logit minus the largest other."""
    margin_before: Tensor
    """(N,): what `margin` was when hope was last judged."""
    hopeless_looks: Tensor
    """int64 (N,): at how many looks in a row there was no hope."""
    given_up: Tensor
    """bool (N,): the driver takes these rows out."""


@dataclass(frozen=True)
class PGD(Attack):
    """Follow the gradient of a loss from a random point, and project back into the ball after each step.

    The step length falls from `step_size` to almost nothing: long steps fool the easy images at once, short ones settle
    the hard ones. With `give_up`, a row is left to its fate when two looks in a row find that its margin would not
    reach zero in time, even at four times its recent pace.
    """

    spec: ClassVar[Spec] = Spec(
        id="noise.pgd",
        title="Predictions withstand the worst low-amplitude noise that gradients can find",
        why=(
            "Whoever holds the model can compute which invisible change of the pixels hurts it most. The share of "
            "images that survive such a search bounds from above how robust the model is; a stronger search can "
            "only lower it. Such noise rarely survives a camera, so read it as a measure of how smooth the model "
            "is, not as a forecast of attacks in the street."
        ),
        metrics=ATTACK_METRICS,
        needs=frozenset({Capability.GRADIENTS}),
        curves=ATTACK_CURVES,
        flags=ATTACK_FLAGS,
        references=(
            "Madry et al. 2018, https://arxiv.org/abs/1706.06083",
            "Carlini and Wagner 2017 (the margin loss), https://arxiv.org/abs/1608.04644",
        ),
        presets={
            "smoke": {"eps": "0.5/255, 2/255, 8/255", "steps": 10},
            "standard": {"eps": "0.25/255, 0.5/255, 1/255, 2/255, 4/255, 8/255"},
            "full": {
                "eps": "0.25/255, 0.5/255, 1/255, 2/255, 4/255, 8/255, 16/255",
                "steps": 100,
                "restarts": 5,
            },
        },
    )

    eps: Budgets = (8 / 255,)
    norm: Literal["linf", "l2"] = "linf"
    steps: Annotated[int, Field(ge=1)] = 40
    restarts: Annotated[int, Field(ge=1)] = 1
    step_size: Annotated[float, Field(gt=0)] = 1.0
    """Length of the first step, as a share of eps."""
    loss: Literal["both", "cross_entropy", "margin"] = "both"
    """What is climbed. Both: the cross-entropy for the first tenth of the steps, then the margin, whose gradient does
    not vanish where the softmax saturates; on every network tried this fooled as many images as either, or more."""
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

    def start(self, origin: Origin) -> PGDState:
        """Start at a random point of the ball, or where a larger budget succeeded."""
        images, labels, eps, rng = origin.images, origin.labels, origin.eps, origin.rng
        shape = images.shape[1:]
        if self.norm == "linf":
            offset = (2 * rng.uniform(0, shape) - 1) * _column(eps)
        else:
            direction = rng.normal(0, shape)
            radius = eps * rng.uniform(1, (1,)).squeeze(1)
            offset = direction * _column(radius / _length(direction))
        far = torch.full_like(eps, torch.inf)
        none = torch.zeros_like(labels)
        never = torch.zeros_like(labels, dtype=torch.bool)
        points = torch.where(_column(origin.warm), origin.points, (images + offset).clamp(0, 1))
        step = torch.where(origin.warm, none + int(self.steps * _WARM_START), none)
        return PGDState(points, images, labels, eps, step, far, far, none, never)

    def step(self, model: Queries, state: PGDState) -> PGDState:
        """Take one step uphill and project."""
        logits, gradient = model.gradient(state.images, self._loss, state.labels, state.step)
        size = state.eps * self.step_size * ((1 - state.step / self.steps) ** 2 + _SHORTEST_STEP)
        if self.norm == "linf":
            moved = state.images + gradient.sign() * _column(size)
            bound = _column(state.eps)
            images = torch.minimum(torch.maximum(moved, state.clean - bound), state.clean + bound)
        else:
            direction = gradient / _column(_length(gradient))
            offset = state.images + direction * _column(size) - state.clean
            images = state.clean + offset * _column((state.eps / _length(offset)).clamp(max=1))
        return self._judge_hope(replace(state, images=images.clamp(0, 1), step=state.step + 1), logits)

    def _loss(self, logits: Tensor, labels: Tensor, step: Tensor) -> Tensor:
        if self.loss == "margin":
            return -_margin(logits, labels)
        entropy = functional.cross_entropy(logits, labels, reduction="none")
        if self.loss == "cross_entropy":
            return entropy
        return torch.where(step < self.steps * _SHARE_OF_ENTROPY, entropy, -_margin(logits, labels))

    def _judge_hope(self, state: PGDState, logits: Tensor) -> PGDState:
        margin = torch.minimum(state.margin, _margin(logits, state.labels))
        if not self.give_up:
            return replace(state, margin=margin)
        before = torch.where(state.margin_before.isinf(), margin, state.margin_before)
        looks_left = (self.steps - state.step) / _STEPS_BETWEEN_LOOKS
        within_reach = _PACE_ALLOWANCE * (before - margin) * looks_left
        look = state.step % _STEPS_BETWEEN_LOOKS == 0
        hopeless = torch.where(margin > within_reach, state.hopeless_looks + 1, torch.zeros_like(state.hopeless_looks))
        looks = torch.where(look, hopeless, state.hopeless_looks)
        return replace(
            state,
            margin=margin,
            margin_before=torch.where(look, margin, before),
            hopeless_looks=looks,
            given_up=(looks >= _HOPELESS_LOOKS) | (state.step >= self.steps),
        )


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _length(vectors: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vectors.flatten(1), dim=1)
    return length.clamp_min(1e-12)
