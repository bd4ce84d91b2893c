"""Square Attack: a random search that is told nothing but scores."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

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
    Streams,
)

__all__ = ["Square", "SquareState"]

# After which share of the queries the windows' area is halved: the paper's schedule, stretched to any budget.
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
_SMALLEST_PYRAMID = 3
# After how many queries hope is first judged, and how many looks without hope end a search. With a patience of 4 this
# loses none of 178 recorded successes on two networks, and saves half of the queries of searches that fail.
_FIRST_MARK, _HOPELESS_LOOKS = 50, 3
_TILES = 5


@dataclass(frozen=True)
class SquareState:
    """The best point of each row, and how far its search has come."""

    images: Tensor
    clean: Tensor
    labels: Tensor
    eps: Tensor
    step: Tensor
    margin: Tensor
    """(N,): the margin at `images`, the true logit minus the largest other; infinite before the first query."""
    margin_before: Tensor
    """(N,): what `margin` was after half as many queries as at the last look."""
    hopeless_looks: Tensor
    """int64 (N,): at how many looks in a row there was no hope."""
    given_up: Tensor
    """bool (N,): the driver takes these rows out."""
    rng: Streams


@dataclass(frozen=True)
class Square(Attack):
    """Change the image in one window at a time, and keep what lowers the margin."""

    spec: ClassVar[Spec] = Spec(
        id="noise.square",
        title="Predictions withstand the worst low-amplitude noise that can be found from scores alone",
        why=(
            "Whoever can read a model's scores needs neither its weights nor its gradients to attack it: a random "
            "search does. It cannot be misled by gradients that are hidden. Where it fools images that an attack "
            "with gradients does not, the gradients are hidden, and robust accuracy under them is too high."
        ),
        metrics=ATTACK_METRICS,
        needs=frozenset({Capability.SCORES}),
        curves=ATTACK_CURVES,
        flags=ATTACK_FLAGS,
        references=("Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049",),
        presets={
            "smoke": {"eps": "2/255, 8/255", "queries": 50},
            "standard": {"eps": "1/255, 4/255", "queries": 200},
            "full": {"eps": "0.5/255, 1/255, 2/255, 4/255, 8/255, 16/255"},
        },
    )

    eps: Budgets = (8 / 255,)
    norm: Literal["linf", "l2"] = "linf"
    queries: Annotated[int, Field(ge=1)] = 5000
    restarts: Annotated[int, Field(ge=1)] = 1
    p_init: Annotated[float, Field(gt=0, le=1)] = 0.8
    """The share of the image that the first windows cover."""
    give_up: bool = True
    """Whether rows without hope are left early."""
    patience: Annotated[float, Field(gt=0)] = 4.0
    """How many times its recent pace a row may need to come through, before a look finds it without hope."""

    @property
    def steps(self) -> int:
        """One a query, that of the start included."""
        return self.queries

    def start(self, origin: Origin) -> SquareState:
        """Start at vertical stripes (L-inf) or a grid of pyramids (L2), or where a larger budget succeeded."""
        painted = _stripes(origin) if self.norm == "linf" else _grid_of_pyramids(origin)
        none, never = torch.zeros_like(origin.labels), torch.zeros_like(origin.warm)
        return SquareState(
            images=torch.where(_column(origin.warm), origin.points, painted),
            clean=origin.images,
            labels=origin.labels,
            eps=origin.eps,
            step=none,
            margin=torch.full_like(origin.eps, torch.inf),
            margin_before=torch.full_like(origin.eps, torch.inf),
            hopeless_looks=none,
            given_up=never,
            rng=origin.rng,
        )

    def step(self, model: Queries, state: SquareState) -> SquareState:
        """Ask about the start, and from then on about the best point with one window changed."""
        area = self._share(state.step) * math.prod(state.images.shape[2:])
        changed = _painted(state, area) if self.norm == "linf" else _with_moved_mass(state, area)
        asked = torch.where(_column(state.step == 0), state.images, changed)
        margin = _margin(model.logits(asked), state.labels)
        better = margin < state.margin
        moved = replace(
            state,
            images=torch.where(_column(better), asked, state.images),
            margin=torch.where(better, margin, state.margin),
            step=state.step + 1,
        )
        return self._judge_hope(moved) if self.give_up else moved

    def _judge_hope(self, state: SquareState) -> SquareState:
        """Look whenever the queries have doubled: a random search gains about as much with each doubling as before."""
        looks = [_FIRST_MARK * 2**k for k in range(max(1, (self.queries // _FIRST_MARK).bit_length()))]
        look = torch.isin(state.step, torch.tensor(looks, device=state.step.device))
        doublings_left = torch.log2(self.queries / state.step.clamp_min(1))
        within_reach = self.patience * (state.margin_before - state.margin) * doublings_left
        hopeless = torch.where(state.margin > within_reach, state.hopeless_looks + 1, 0)
        looks_in_a_row = torch.where(look, hopeless, state.hopeless_looks)
        return replace(
            state,
            margin_before=torch.where(look, state.margin, state.margin_before),
            hopeless_looks=looks_in_a_row,
            given_up=looks_in_a_row >= _HOPELESS_LOOKS,
        )

    def _share(self, step: Tensor) -> Tensor:
        """Return float32 (N,): the share of the image that the window of each row covers."""
        ends = torch.tensor(_HALVINGS, device=step.device) * self.queries
        return self.p_init * 0.5 ** (step.unsqueeze(1) > ends).sum(1).float()


def _stripes(origin: Origin) -> Tensor:
    channels, _, width = origin.images.shape[1:]
    signs = _signs(origin.rng.uniform(0, (channels, 1, width)))
    return (origin.images + signs * _column(origin.eps)).clamp(0, 1)


def _painted(state: SquareState, area: Tensor) -> Tensor:
    """Return the best points with a window each moved to a random corner of the ball, one that differs."""
    channels, height, width = state.images.shape[1:]
    draws = state.rng.uniform(state.step, (2 + 2 * channels,))
    side = area.sqrt().round().clamp(min=1)
    # Where the square is longer than the image, it becomes a rectangle of the same area.
    rows = torch.where(side > width, (area / width).round(), side).clamp(max=height)
    columns = torch.where(side > height, (area / height).round(), side).clamp(max=width)
    inside = _inside(*_from_corner(state.images, rows, columns, draws[:, :2]), rows, columns)
    signs = _signs(draws[:, 2 : 2 + channels])
    painted = _with_corner(state, inside, signs)
    unchanged = (painted == state.images).flatten(1).all(1)
    flipped = signs.scatter(1, draws[:, 2 + channels :].argmax(1, keepdim=True), -1.0, reduce="multiply")
    return _with_corner(state, inside, torch.where(unchanged.unsqueeze(1), flipped, signs))


def _with_corner(state: SquareState, inside: Tensor, signs: Tensor) -> Tensor:
    corner = state.clean + signs.unsqueeze(-1).unsqueeze(-1) * _column(state.eps)
    return torch.where(inside, corner.clamp(0, 1), state.images)


def _from_corner(images: Tensor, rows: Tensor, columns: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far each row (N, 1, H, 1) and column (N, 1, 1, W) of an image lies from the corner of its window.

    The window has `rows` by `columns` pixels, and lies where the two draws (N, 2) put it.
    """
    row, column = _coordinates(images)
    top, left = _place(draws[:, 0], images.shape[2] - rows), _place(draws[:, 1], images.shape[3] - columns)
    return row - _column(top), column - _column(left)


def _inside(down: Tensor, across: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return (down >= 0) & (down < _column(rows)) & (across >= 0) & (across < _column(columns))


def _place(draw: Tensor, last: Tensor) -> Tensor:
    """Return a whole number from 0 to `last`, inclusive, for a draw from (0, 1)."""
    return (draw * (last + 1)).floor().minimum(last)


def _coordinates(images: Tensor) -> tuple[Tensor, Tensor]:
    height, width = images.shape[2:]
    row = torch.arange(height, dtype=images.dtype, device=images.device).view(1, 1, -1, 1)
    return row, torch.arange(width, dtype=images.dtype, device=images.device).view(1, 1, 1, -1)


def _grid_of_pyramids(origin: Origin) -> Tensor:
    """Return points on the sphere: a grid of tiles, with a pair of pyramids a channel in each."""
    images = origin.images
    channels, height, width = images.shape[1:]
    side = max(min(height, width) // _TILES, 1)
    tiles = height // side, width // side
    draws = origin.rng.uniform(0, (channels + 1, *tiles))
    within = []
    for axis, (place, count) in enumerate(zip(_coordinates(images), tiles, strict=True)):
        inner = place - (images.shape[2 + axis] - count * side) // 2
        tile = (inner.flatten() / side).floor().clamp(0, count - 1).long()
        draws = draws.index_select(2 + axis, tile)
        within.append(torch.where((inner >= 0) & (inner < count * side), inner % side, -1))
    turned = draws[:, -1:] < 0.5
    return _on_sphere(
        images, _signs(draws[:, :-1]) * _pyramids(within[0], within[1], images.new_full((1,), side), turned), origin.eps
    )


def _with_moved_mass(state: SquareState, area: Tensor) -> Tensor:
    """Return the best points with the change of one window taken away, and a pair of pyramids added in another.

    What the first window lost, and what the clamp to [0, 1] left of the budget, goes to the second one.
    """
    change = state.images - state.clean
    channels, height, width = change.shape[1:]
    draws = state.rng.uniform(state.step, (5 + channels,))
    side = area.sqrt().round().clamp(min=_SMALLEST_PYRAMID)
    side = (side + (side + 1) % 2).clamp(max=(min(height, width) - 1) // 2 * 2 + 1)
    first = _from_corner(change, side, side, draws[:, :2])
    gains = _inside(*first, side, side)
    loses = _inside(*_from_corner(change, side, side, draws[:, 2:4]), side, side)
    added = _pyramids(*first, side, _column(draws[:, 4] < 0.5))
    old = change * gains
    mixed = _signs(draws[:, 5:]).view(-1, channels, 1, 1) * added + old / _length(old)
    spare = (state.eps.square() - _length(change, 1).square().flatten()).clamp(min=0) / channels
    mass = (_column(spare) + (change * (gains | loses)).square().sum((2, 3), keepdim=True)).sqrt()
    moved = torch.where(gains, mixed / _length(mixed) * mass, torch.where(loses, 0.0, change))
    return _on_sphere(state.clean, moved, state.eps)


def _pyramids(down: Tensor, across: Tensor, side: Tensor, turned: Tensor) -> Tensor:
    """Return (N, 1, H, W), length 1: two pyramids of opposite sign, one above the other; beside it where `turned`.

    `down` and `across` are places relative to the corner of a window of `side` pixels, outside of which all is zero.
    """
    inside = _inside(down, across, side, side)
    side = _column(side)
    down, across = torch.where(turned, across, down), torch.where(turned, down, across)
    middle = (side / 2).floor()
    above = down < middle
    peak = torch.where(above, (middle / 2).floor(), middle + ((side - middle) / 2).floor())
    away = (down - peak).abs().maximum((across - middle).abs())
    steps = torch.arange(1, max(inside.shape[2:]) + 2, dtype=torch.float32, device=inside.device)
    heights = torch.cat([steps.new_zeros(1), steps.pow(-2).cumsum(0)])
    height = torch.where(inside, heights[(middle + 1).long()] - heights[away.long().clamp(max=len(steps))], 0.0)
    pair = height * above / _length(height * above) - height * ~above / _length(height * ~above)
    return pair / _length(pair)


def _on_sphere(clean: Tensor, change: Tensor, eps: Tensor) -> Tensor:
    return (clean + change * (_column(eps) / _length(change, 1))).clamp(0, 1)


def _length(change: Tensor, first_dimension: int = 2) -> Tensor:
    """Return the length of every channel (N, C, 1, 1), or with `first_dimension` 1 of the whole (N, 1, 1, 1)."""
    dimensions = tuple(range(first_dimension, 4))
    length: Tensor = torch.linalg.vector_norm(change, dim=dimensions, keepdim=True)
    return length.clamp_min(1e-12)


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)


def _signs(draws: Tensor) -> Tensor:
    return torch.where(draws < 0.5, -1.0, 1.0)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
