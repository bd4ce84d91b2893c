"""Random noise, Gaussian and uniform: what chance does, beside what an adversary does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditkit import ATTACK_CURVES, ATTACK_FLAGS, ATTACK_METRICS, Attack, Budgets, Origin, Queries, Spec, Streams

__all__ = ["GaussianNoise", "UniformNoise"]


@dataclass(frozen=True)
class _State:
    images: Tensor
    clean: Tensor
    eps: Tensor
    draw: Tensor
    rng: Streams


@dataclass(frozen=True)
class GaussianNoise(Attack):
    """Add Gaussian noise of standard deviation eps, several times; an image that is ever misclassified is fooled."""

    spec: ClassVar[Spec] = Spec(
        id="noise.gaussian",
        title="Predictions withstand Gaussian sensor noise",
        why=(
            "Every sensor adds noise, more of it in the dark. A model that noise without any intent fools is not "
            "ready for a camera. Compare this curve with those of the attacks: the distance between them is what "
            "intent adds to chance."
        ),
        metrics=tuple(metric for metric in ATTACK_METRICS if metric.name != "distance"),
        curves=ATTACK_CURVES,
        flags=ATTACK_FLAGS,
        references=("Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261",),
        presets={
            "smoke": {"eps": "8/255, 16/255", "draws": 3},
            "standard": {"eps": "2/255, 4/255, 8/255, 16/255", "draws": 10},
            "full": {"eps": "1/255, 2/255, 4/255, 8/255, 16/255, 32/255", "draws": 100},
        },
    )

    eps: Budgets = (8 / 255,)
    draws: Annotated[int, Field(ge=1)] = 10

    @property
    def norm(self) -> Literal["free"]:
        """Gaussian noise has no largest value: eps is its standard deviation, not a bound."""
        return "free"

    @property
    def steps(self) -> int:
        """One a draw."""
        return self.draws

    def start(self, origin: Origin) -> _State:
        """Draw once."""
        return _gaussian(_first(origin))

    def step(self, model: Queries, state: _State) -> _State:
        """Ask about the draw, and draw again unless it was the last."""
        model.logits(state.images)
        return _gaussian(replace(state, draw=(state.draw + 1).clamp(max=self.draws - 1)))


@dataclass(frozen=True)
class UniformNoise(Attack):
    """Add uniform noise between -eps and eps, several times; an image that is ever misclassified is fooled."""

    spec: ClassVar[Spec] = Spec(
        id="noise.uniform",
        title="Predictions withstand random noise inside the attacker's budget",
        why=(
            "Uniform noise uses the very budget that gradient attacks have, without any aim. A model that it "
            "fools has no defence worth the name; one that it fools more often than a gradient attack does hides "
            "its gradients."
        ),
        metrics=ATTACK_METRICS,
        curves=ATTACK_CURVES,
        flags=ATTACK_FLAGS,
        references=("Carlini et al. 2019, section 4, https://arxiv.org/abs/1902.06705",),
        presets={
            "smoke": {"eps": "2/255, 8/255", "draws": 3},
            "standard": {"eps": "2/255, 4/255, 8/255, 16/255", "draws": 10},
            "full": {"eps": "1/255, 2/255, 4/255, 8/255, 16/255", "draws": 100},
        },
    )

    eps: Budgets = (8 / 255,)
    draws: Annotated[int, Field(ge=1)] = 10

    @property
    def norm(self) -> Literal["linf"]:
        """Every colour value may move by eps."""
        return "linf"

    @property
    def steps(self) -> int:
        """One a draw."""
        return self.draws

    def start(self, origin: Origin) -> _State:
        """Draw once."""
        return _uniform(_first(origin))

    def step(self, model: Queries, state: _State) -> _State:
        """Ask about the draw, and draw again unless it was the last."""
        model.logits(state.images)
        return _uniform(replace(state, draw=(state.draw + 1).clamp(max=self.draws - 1)))


def _first(origin: Origin) -> _State:
    return _State(origin.images, origin.images, origin.eps, torch.zeros_like(origin.labels), origin.rng)


def _gaussian(state: _State) -> _State:
    noise = state.rng.normal(state.draw, state.clean.shape[1:])
    return replace(state, images=_add(state, noise))


def _uniform(state: _State) -> _State:
    noise = 2 * state.rng.uniform(state.draw, state.clean.shape[1:]) - 1
    return replace(state, images=_add(state, noise))


def _add(state: _State, noise: Tensor) -> Tensor:
    return (state.clean + noise * state.eps.view(-1, 1, 1, 1)).clamp(0, 1)
