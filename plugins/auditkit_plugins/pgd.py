"""Projected gradient descent: the standard white-box search inside a norm ball."""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    Queries,
    Spec,
    Streams,
)

__all__ = ["PGD", "PGDState"]


@dataclass(frozen=True)
class PGDState:
    """Where each row stands, what it may not leave, and how far it has come."""

    images: Tensor
    clean: Tensor
    labels: Tensor
    eps: Tensor
    step: Tensor


@dataclass(frozen=True)
class PGD(Attack):
    """Follow the gradient of the cross-entropy from a random point, and project back into the ball after each step.

    The step length falls along a cosine from `step_size` to nothing: long steps fool the easy images at once, short
    ones settle the hard ones.
    """

    spec: ClassVar[Spec] = Spec(
        id="noise.pgd",
        title="Predictions withstand the worst low-amplitude noise that gradients can find",
        why=(
            "Whoever holds the model can compute which invisible change of the pixels hurts it most. The share "
            "of images "
            "that survive such a search bounds from above how robust the model is; a stronger search can only "
            "lower it. "
            "Such noise rarely survives a camera, so read it as a measure of how smooth the model is, not as a "
            "forecast "
            "of attacks in the street."
        ),
        metrics=ATTACK_METRICS,
        needs=frozenset({Capability.GRADIENTS}),
        curves=ATTACK_CURVES,
        flags=ATTACK_FLAGS,
        references=("Madry et al. 2018, https://arxiv.org/abs/1706.06083",),
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

    def start(self, images: Tensor, labels: Tensor, eps: Tensor, rng: Streams) -> PGDState:
        """Start at a random point of the ball."""
        shape = images.shape[1:]
        if self.norm == "linf":
            offset = (2 * rng.uniform(0, shape) - 1) * _column(eps)
        else:
            direction = rng.normal(0, shape)
            radius = eps * rng.uniform(1, (1,)).squeeze(1)
            offset = direction * _column(radius / _length(direction))
        return PGDState((images + offset).clamp(0, 1), images, labels, eps, torch.zeros_like(labels))

    def step(self, model: Queries, state: PGDState) -> PGDState:
        """Take one step uphill and project."""
        _, gradient = model.gradient(state.images, _cross_entropy, state.labels)
        size = state.eps * self.step_size * 0.5 * (1 + torch.cos(math.pi * state.step / self.steps))
        if self.norm == "linf":
            moved = state.images + gradient.sign() * _column(size)
            bound = _column(state.eps)
            images = torch.minimum(torch.maximum(moved, state.clean - bound), state.clean + bound)
        else:
            direction = gradient / _column(_length(gradient))
            offset = state.images + direction * _column(size) - state.clean
            images = state.clean + offset * _column((state.eps / _length(offset)).clamp(max=1))
        return PGDState(images.clamp(0, 1), state.clean, state.labels, state.eps, state.step + 1)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _length(vectors: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vectors.flatten(1), dim=1)
    return length.clamp_min(1e-12)
