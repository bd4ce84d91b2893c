"""Small attacks on linear networks whose manners the tests choose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from auditkit import ATTACK_METRICS, Attack, Spec, cascade
from auditkit.models.base import Differentiable
from auditkit.models.preprocess import Preprocessed, Preprocessing
from auditkit.testing import LinearModel

__all__ = ["InTurn", "Scripted", "State", "closing_in", "edge", "scripted", "searching_with", "some_way", "spec"]


def spec(name="noise.made_up"):
    return Spec(id=name, title="t", why="w", metrics=ATTACK_METRICS)


def searching_with(network):
    return Differentiable(Preprocessed(network, Preprocessing()).requires_grad_(False), "another network")


@dataclass(frozen=True)
class State:
    images: Tensor
    clean: Tensor
    labels: Tensor
    eps: Tensor
    step: Tensor
    given_up: Tensor


@dataclass(frozen=True)
class Scripted(Attack):
    """An attack on the shortest way to another class, whose manners the tests choose."""

    spec: ClassVar[Spec] = spec()
    network: ClassVar[LinearModel]
    eps: tuple[float, ...] = (0.1,)
    rounds: int = 3
    restarts: int = 1

    @property
    def norm(self):
        return "linf"

    @property
    def steps(self):
        return self.rounds

    def start(self, origin):
        labels = origin.labels
        return State(origin.images, origin.images, labels, origin.eps, torch.zeros_like(labels), labels < 0)

    def toward(self, images, labels, length):
        """Move every colour value by `length` toward the next class: of two, the shortest way to the other."""
        weight = self.network.weight.detach()
        return images + (weight[(labels + 1) % len(weight)] - weight[labels]).sign().view_as(images) * length


def scripted(network, step, nearest=False, start=None, **options):
    """Return a scripted attack whose `step(self, model, state)` is given, and its `start(self, origin)` if need be."""
    parts = {"network": network, "step": step, "goal": "nearest" if nearest else "first", "__annotations__": {}}
    if start is not None:
        parts["start"] = start
    return dataclass(frozen=True)(type("Made", (Scripted,), parts))(**options)


def edge(self, model, state):
    """Ask about the best point at the edge of the budget; on two classes nothing else need be asked."""
    images = self.toward(state.clean, state.labels, state.eps.view(-1, 1, 1, 1)).clamp(0, 1)
    model.logits(images)
    return replace(state, images=images, step=state.step + 1)


def some_way(self, origin):
    """Start for `closing_in`: `eps` is how far the next query goes, at first something random."""
    first = 0.02 + 0.1 * origin.rng.uniform(0, (1,)).squeeze(1)
    return replace(Scripted.start(self, origin), eps=first)


def closing_in(self, model, state):
    """Ask ever nearer while that succeeds, and further out while it does not."""
    images = self.toward(state.clean, state.labels, state.eps.view(-1, 1, 1, 1)).clamp(0, 1)
    fooled = model.logits(images).argmax(1) != state.labels
    return replace(state, images=images, eps=state.eps * torch.where(fooled, 0.7, 1.25), step=state.step + 1)


@dataclass(frozen=True)
class InTurn:
    """Several attacks as one check."""

    spec: ClassVar[Spec] = spec("noise.in_turn")
    attacks: tuple[Attack, ...] = ()

    def run(self, model, samples, ctx):
        return cascade(self.attacks, model, samples, ctx)
