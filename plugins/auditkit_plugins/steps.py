"""How many steps does it take? The hardness of each image, counted in small steps of equal length."""

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
    Metric,
    Origin,
    Queries,
    Spec,
)

__all__ = ["Steps"]


@dataclass(frozen=True)
class _State:
    images: Tensor
    clean: Tensor
    labels: Tensor
    eps: Tensor


@dataclass(frozen=True)
class Steps(Attack):
    """Walk uphill from the image itself, in steps of one length and without any chance, and count them."""

    spec: ClassVar[Spec] = Spec(
        id="noise.steps",
        title="Many small gradient steps are needed before a prediction changes",
        why=(
            "An image that falls at the first step lies at the edge of its class; one that takes many steps is hard to "
            "attack. The count is a measure of each image, not only of the model: the images that fall first are the "
            "ones to look at, and to train on."
        ),
        metrics=(
            *ATTACK_METRICS,
            Metric("median_steps", "steps", "Median number of steps until the first success", "median", among="fooled"),
        ),
        needs=frozenset({Capability.GRADIENTS}),
        curves=ATTACK_CURVES,
        flags=ATTACK_FLAGS,
        references=(
            "Kurakin et al. 2017 (the basic iterative method), https://arxiv.org/abs/1607.02533",
            "Horváth 2020, Adversarial samples in machine learning (talk)",
        ),
        presets={"standard": {"eps": "8/255"}, "full": {"eps": "16/255", "steps": 200, "step_size": 0.01}},
    )

    eps: Budgets = (8 / 255,)
    steps: Annotated[int, Field(ge=1)] = 50
    step_size: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Length of every step, as a share of eps."""

    @property
    def norm(self) -> Literal["linf"]:
        """Every colour value may move by eps."""
        return "linf"

    def start(self, origin: Origin) -> _State:
        """Start at the image itself, at every budget: a count from elsewhere would mean something else."""
        return _State(origin.images, origin.images, origin.labels, origin.eps)

    def step(self, model: Queries, state: _State) -> _State:
        """Take one step, and ask where it led."""
        _, gradient = model.gradient(state.images, _cross_entropy, state.labels)
        size, bound = (self.step_size * state.eps).view(-1, 1, 1, 1), state.eps.view(-1, 1, 1, 1)
        moved = state.images + gradient.sign() * size
        inside = torch.minimum(torch.maximum(moved, state.clean - bound), state.clean + bound)
        return replace(state, images=inside.clamp(0, 1))


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")
