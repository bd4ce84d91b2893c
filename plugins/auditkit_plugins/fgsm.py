"""The fast gradient sign method: a single step to the edge of the ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional

from auditkit import (
    ATTACK_CURVES,
    ATTACK_FLAGS,
    ATTACK_METRICS,
    Attack,
    Budgets,
    Capability,
    Origin,
    Queries,
    Spec,
)

__all__ = ["FGSM"]


@dataclass(frozen=True)
class _State:
    images: Tensor
    labels: Tensor
    eps: Tensor


@dataclass(frozen=True)
class FGSM(Attack):
    """Move every pixel by eps in the direction that raises the cross-entropy."""

    spec: ClassVar[Spec] = Spec(
        id="noise.fgsm",
        title="Predictions withstand a single gradient step",
        why=(
            "One step along the sign of the gradient is the cheapest attack there is. A model that falls to it is "
            "fragile; one that withstands it may still fall to an attack of many steps, and should: a model on "
            "which one step does better than many hides its gradients."
        ),
        metrics=ATTACK_METRICS,
        needs=frozenset({Capability.GRADIENTS}),
        curves=ATTACK_CURVES,
        flags=ATTACK_FLAGS,
        references=("Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572",),
        presets={
            "smoke": {"eps": "2/255, 8/255"},
            "standard": {"eps": "0.5/255, 1/255, 2/255, 4/255, 8/255"},
            "full": {"eps": "0.5/255, 1/255, 2/255, 4/255, 8/255, 16/255"},
        },
    )

    eps: Budgets = (8 / 255,)

    @property
    def norm(self) -> Literal["linf"]:
        """Every colour value may move by eps."""
        return "linf"

    @property
    def steps(self) -> int:
        """A single one."""
        return 1

    def start(self, origin: Origin) -> _State:
        """Start at the image itself."""
        return _State(origin.images, origin.labels, origin.eps)

    def step(self, model: Queries, state: _State) -> _State:
        """Take the step."""
        _, gradient = model.gradient(state.images, _cross_entropy, state.labels)
        moved = state.images + gradient.sign() * state.eps.view(-1, 1, 1, 1)
        return _State(moved.clamp(0, 1), state.labels, state.eps)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")
