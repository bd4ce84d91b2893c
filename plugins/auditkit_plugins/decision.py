"""RayS: an attack that is told nothing but the class of each image."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditkit import ATTACK_CURVES, ATTACK_FLAGS, ATTACK_METRICS, Attack, Budgets, Origin, Queries, Spec

__all__ = ["Decision", "DecisionState"]

# To what share of itself a radius is measured: coarsely while the blocks are large, for each large block still brings
# much, then ever finer. A flip must shorten the radius by a small share of that, or it is not kept.
_FIRST_TOLERANCE = 0.8
_LAST_TOLERANCE = 0.01
_LEAST_GAIN = 0.05
# A row is done a little inside the smallest budget, so that the deployed model's rounding takes nothing back.
_SAFELY_INSIDE = 0.95


@dataclass(frozen=True)
class DecisionState:
    """Which way each value moves, how far one must go that way, and what is tried next."""

    images: Tensor
    clean: Tensor
    labels: Tensor
    limit: Tensor
    """(N,): no query lies further out."""
    raised: Tensor
    """bool (N, C, H, W): the direction; true where values go up, false where they go down."""
    radius: Tensor
    """(N,): how far one must go in this direction; infinite before the first success."""
    level: Tensor
    """int64 (N,): blocks are halved from level to level, and after the last level the first one follows again."""
    block: Tensor
    """int64 (N,): which block of this level is flipped on trial; -1: none, the direction itself is tried."""
    measuring: Tensor
    """bool (N,): the trial was a success at `high`, and it is being measured how near one may go."""
    low: Tensor
    """(N,): where the trial failed; 0 before it did."""
    high: Tensor
    stride: Tensor
    given_up: Tensor
    """bool (N,): the driver takes these rows out."""


@dataclass(frozen=True)
class Decision(Attack):
    """Find the direction, up or down for every value, in which the nearest wrong answer lies, by flipping blocks of it.

    One query a step: a trial fails, or it succeeds and is then measured: with strides that double until one is too
    long, and by halving what remains. Every row goes through this at its own pace.
    """

    spec: ClassVar[Spec] = Spec(
        id="noise.decision",
        title="Predictions withstand the worst low-amplitude noise that can be found from decisions alone",
        why=(
            "Many deployed models tell nothing but a class. This search needs no more than that, so hiding scores "
            "and gradients is no defence against it. It also tests the other attacks: neither gradients nor scores "
            "can mislead it. Where it fools images that an attack with gradients does not, the gradients are hidden."
        ),
        metrics=ATTACK_METRICS,
        curves=ATTACK_CURVES,
        flags=ATTACK_FLAGS,
        references=("Chen and Gu 2020 (RayS), https://arxiv.org/abs/2006.12792",),
        presets={
            "smoke": {"eps": "2/255, 8/255", "queries": 50},
            "standard": {"eps": "1/255, 4/255", "queries": 200},
            "full": {"eps": "0.5/255, 1/255, 2/255, 4/255, 8/255, 16/255"},
        },
    )

    eps: Budgets = (8 / 255,)
    queries: Annotated[int, Field(ge=1)] = 2000

    @property
    def goal(self) -> Literal["nearest"]:
        """The nearest success."""
        return "nearest"

    @property
    def norm(self) -> Literal["linf"]:
        """Every colour value moves equally far."""
        return "linf"

    @property
    def steps(self) -> int:
        """One a query."""
        return self.queries

    def start(self, origin: Origin) -> DecisionState:
        """Start with all values going up."""
        zero, none = torch.zeros_like(origin.eps), torch.zeros_like(origin.labels)
        never = torch.zeros_like(origin.warm)
        return DecisionState(
            images=origin.images,
            clean=origin.images,
            labels=origin.labels,
            limit=origin.eps.clamp(max=1),
            raised=torch.ones_like(origin.images, dtype=torch.bool),
            radius=torch.full_like(zero, torch.inf),
            level=none,
            block=none - 1,
            measuring=never,
            low=zero,
            high=zero,
            stride=zero,
            given_up=never,
        )

    def step(self, model: Queries, state: DecisionState) -> DecisionState:
        """Ask about one point a row, and draw the conclusions."""
        trial = state.raised ^ _in_block(state)
        away = _next_radius(state)
        moved = state.clean + torch.where(trial, 1.0, -1.0) * _column(away)
        images = moved.clamp(0, 1)
        fooled = model.logits(images).argmax(1) != state.labels
        state = _measured(replace(state, images=torch.where(_column(fooled), images, state.images)), away, fooled)
        state = _concluded(state, trial)
        return replace(state, given_up=state.radius <= _SAFELY_INSIDE * self.eps[0])


def _next_radius(state: DecisionState) -> Tensor:
    """Return (N,), how far out to ask: a little nearer than the best so far, by a stride, or half-way."""
    little_nearer = (state.radius * (1 - _LEAST_GAIN * _tolerance(state))).minimum(state.limit)
    by_stride = (state.high - state.stride).maximum(state.high / 2)
    half_way = (state.low + state.high) / 2
    return torch.where(state.measuring, torch.where(state.low == 0, by_stride, half_way), little_nearer)


def _measured(state: DecisionState, away: Tensor, fooled: Tensor) -> DecisionState:
    """Take in whether the trial `fooled`, bool (N,), at the radius `away`."""
    new = fooled & ~state.measuring
    stride = torch.where(fooled & state.measuring, 2 * state.stride, state.stride)
    low = torch.where(state.measuring & ~fooled, away, state.low)
    return replace(
        state,
        measuring=state.measuring | fooled,
        low=torch.where(new, torch.zeros_like(low), low),
        high=torch.where(fooled, away, state.high),
        stride=torch.where(new, _tolerance(state) * away, stride),
    )


def _concluded(state: DecisionState, trial: Tensor) -> DecisionState:
    """Keep a trial that is measured well enough, drop one that failed, and go on to the next block in either case."""
    measured = state.measuring & (state.high - state.low <= _tolerance(state) * state.high)
    next_block = measured | ~state.measuring
    block = state.block + next_block
    level_done = block * _block_size(state) >= state.clean[0].numel()
    return replace(
        state,
        raised=torch.where(_column(measured), trial, state.raised),
        radius=torch.where(measured, state.high, state.radius),
        measuring=state.measuring & ~measured,
        block=torch.where(level_done, torch.zeros_like(block), block),
        level=state.level + level_done,
    )


def _tolerance(state: DecisionState) -> Tensor:
    return (_FIRST_TOLERANCE * 0.5 ** state.level.float()).clamp_min(_LAST_TOLERANCE)


def _in_block(state: DecisionState) -> Tensor:
    """Return bool (N, C, H, W): the block that each row has on trial."""
    size = _block_size(state)
    first = _column(state.block * size)
    rank = _ranks(*state.clean.shape[1:], state.clean.device)
    return (rank >= first) & (rank < first + _column(size))


def _block_size(state: DecisionState) -> Tensor:
    """Return int64 (N,): how many values a block has at each row's level."""
    values = state.clean[0].numel()
    levels = (values - 1).bit_length() + 1
    blocks = torch.ones_like(state.level) << state.level % levels
    return (values + blocks - 1) // blocks


@functools.lru_cache(maxsize=4)
def _ranks(channels: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return int64 (C, H, W), the order in which values are cut into blocks: along a Z-order curve, channels together.

    So a block of any size is a patch of neighbouring pixels.
    """
    row = torch.arange(height, device=device).unsqueeze(1)
    column = torch.arange(width, device=device)
    curve = torch.zeros(height, width, dtype=torch.int64, device=device)
    for bit in range(max(height, width).bit_length()):
        curve |= ((row >> bit) & 1) << (2 * bit + 1) | ((column >> bit) & 1) << (2 * bit)
    pixel = curve.flatten().argsort().argsort().view(height, width)
    return pixel * channels + torch.arange(channels, device=device).view(-1, 1, 1)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
