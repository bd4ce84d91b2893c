"""The search of physical.space: each knob alone, then the best of them together, then random changes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from auditkit import Attack, Budgets, Origin, Queries, Spec, Streams
from auditkit_plugins.camera.knobs import KNOBS, Ranges, changed, legal, transformed

__all__ = ["TOGETHER", "SpaceSearch", "SpaceState", "margin_of"]

TOGETHER = 8
"""Candidates that are asked about together."""

# The levels at which each knob is tried alone. Blur has no other side.
_GRID = (-1.0, -0.5, 0.5, 1.0)
_BLUR_GRID = (0.25, 0.5, 0.75, 1.0)
# How near random changes stay, at first and at last, as shares of the ranges.
_FIRST_REACH, _LAST_REACH = 0.4, 0.05


@dataclass(frozen=True)
class SpaceState:
    """The best transformation of each row."""

    images: Tensor
    clean: Tensor
    labels: Tensor
    eps: Tensor
    step: Tensor
    margin: Tensor
    settings: Tensor
    """float32 (N, 8): the knobs at `images`, as shares of their ranges."""
    lowest: Tensor
    """float32 (N, 8): the lowest margin that each knob reached alone."""
    levels: Tensor
    """float32 (N, 8): at which setting."""
    rng: Streams


@dataclass(frozen=True)
class SpaceSearch(Attack):
    """Try each knob alone, then the best of them together, then random changes of the best setting."""

    spec: ClassVar[Spec]
    eps: Budgets
    ranges: Ranges
    queries: int

    @property
    def norm(self) -> Literal["free"]:
        """No norm measures what was done: the search itself keeps to the ranges."""
        return "free"

    @property
    def steps(self) -> int:
        """One for each few candidates."""
        return math.ceil(self.queries / TOGETHER)

    @property
    def marks(self) -> tuple[str, ...]:
        """The knobs, as shares of their ranges."""
        return KNOBS

    def start(self, origin: Origin) -> SpaceState:
        """Start at the image as it is."""
        n = len(origin.images)
        never = torch.full_like(origin.eps, torch.inf)
        return SpaceState(
            images=origin.images,
            clean=origin.images,
            labels=origin.labels,
            eps=origin.eps,
            step=torch.zeros_like(origin.labels),
            margin=never,
            settings=origin.images.new_zeros((n, len(KNOBS))),
            lowest=never.unsqueeze(1).expand(-1, len(KNOBS)).clone(),
            levels=origin.images.new_zeros((n, len(KNOBS))),
            rng=origin.rng,
        )

    def step(self, model: Queries, state: SpaceState) -> SpaceState:
        """Ask about the next candidates, and keep the best setting so far."""
        candidates = self._proposed(state)
        many = candidates.flatten(0, 1)
        images = transformed(state.clean.repeat_interleave(TOGETHER, 0), many, self.ranges)
        margins = margin_of(model.logits(images, many), state.labels.repeat_interleave(TOGETHER)).view(-1, TOGETHER)
        least, at = margins.min(1)
        better = least < state.margin
        chosen = at + TOGETHER * torch.arange(len(at), device=at.device)
        on_grid = (state.step < len(_GRID)).unsqueeze(1)
        lower = on_grid & (margins < state.lowest)
        return replace(
            state,
            images=torch.where(better.view(-1, 1, 1, 1), images[chosen], state.images),
            settings=torch.where(better.unsqueeze(1), many[chosen], state.settings),
            margin=torch.where(better, least, state.margin),
            lowest=torch.where(lower, margins, state.lowest),
            levels=torch.where(lower, candidates.diagonal(dim1=1, dim2=2), state.levels),
            step=state.step + 1,
        )

    def control(self, origin: Origin) -> Tensor:
        """Set every knob at random."""
        draws = 2 * origin.rng.uniform(0, (1, len(KNOBS))) - 1
        return transformed(origin.images, legal(origin.images, draws, origin.eps, self.ranges)[:, 0], self.ranges)

    def _proposed(self, state: SpaceState) -> Tensor:
        """Return float32 (N, 8, 8): the settings of a few candidates."""
        levels = state.images.new_tensor([_GRID] * (len(KNOBS) - 1) + [_BLUR_GRID])
        grid = torch.diag_embed(levels.T)[state.step.clamp(max=len(_GRID) - 1)]
        rank = state.lowest.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        count = torch.arange(TOGETHER, device=rank.device).view(1, -1, 1)
        together = torch.where(rank.unsqueeze(1) <= count, state.levels.unsqueeze(1), 0.0)
        # Powers of float32 may differ in the last bit between a lone value and one of many.
        done = (state.step.double() / self.steps).clamp(max=1)
        eps = state.eps.view(-1, 1, 1)
        reach = eps * (_FIRST_REACH * (_LAST_REACH / _FIRST_REACH) ** done).float().view(-1, 1, 1)
        near = changed(state.rng.uniform(state.step, (TOGETHER, 3, len(KNOBS))), state.settings, reach, eps)
        step = state.step.view(-1, 1, 1)
        asked = torch.where(step < len(_GRID), grid, torch.where(step == len(_GRID), together, near))
        # The grid is in shares of the budget; the others are settings already.
        share = torch.where(step < len(_GRID), eps, 1.0)
        return legal(state.images, asked * share, state.eps, self.ranges)


def margin_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N,): the true logit minus the largest other."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
