"""sigma-zero for pixels: gradient steps toward the fewest pixels that change the prediction."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    ATTACK_CURVES,
    ATTACK_FLAGS,
    ATTACK_METRICS,
    CONTROL_METRIC,
    Attack,
    Budgets,
    Capability,
    Goal,
    Norm,
    Origin,
    Queries,
    Spec,
    Streams,
)
from auditkit_plugins.sparse_search import random_pixels, require_whole

__all__ = ["SparseGradient", "SparseGradientState"]

# The paper's numbers: how sharply pixels are counted, Adam's lengths of step, and below which change a pixel is put
# back, which is adapted to success.
_SIGMA = 1e-3
_FIRST_LENGTH, _LAST_LENGTH = 1.0, 0.1
_FIRST_THRESHOLD, _THRESHOLD_STEP = 0.3, 0.01
_MEMORY, _MEMORY_OF_SQUARES = 0.9, 0.999
_TINY = 1e-12
# Which share of the steps descends; the rest exchanges single pixels of the best success.
_DESCENDING = 0.4
# How many other images a row asks about in every step beside its point: while it descends its best pixels only, so many
# of them at most; later on exchanges, of which the first half is led by the gradient.
_CANDIDATES, _LED = 6, 3
_LARGEST_EXCERPT = 20.0
# How freely the gradient's advice is taken; how often a pixel that it does not lead changes its colour, not its place,
# and how far it moves otherwise.
_TEMPERATURE = 0.5
_RECOLOURED = 0.35
_REACH = 2


@dataclass(frozen=True)
class SparseGradientState:
    """The point of each row, what its descent remembers, and its best success so far."""

    images: Tensor
    clean: Tensor
    labels: Tensor
    mean: Tensor
    """(N, C, H, W): Adam's running mean of the gradients, `squares` that of their squares."""
    squares: Tensor
    threshold: Tensor
    """(N,): a pixel that changed by less is put back."""
    best: Tensor
    """(N, C, H, W): the success with the fewest pixels."""
    count: Tensor
    """(N,): how many pixels of it changed; infinite before there is one."""
    exchanging: Tensor
    """bool (N,): whether the row has come to exchange pixels; the others descend."""
    given_up: Tensor
    """bool (N,): a single pixel is enough, so there is nothing left to look for."""
    step: Tensor
    rng: Streams


@dataclass(frozen=True)
class SparseGradient(Attack):
    """Descend on margin and number of pixels at once, then put back one pixel after the other."""

    spec: ClassVar[Spec] = Spec(
        id="pixel.gradient",
        title="A few pixels, found with gradients, do not change predictions",
        why=(
            "Dust, a dead sensor cell or a fleck of paint changes few pixels, and those by any amount. Gradients lead "
            "quickly to the pixels that matter, so this search says how few an attacker needs who knows the model."
        ),
        metrics=(*ATTACK_METRICS, CONTROL_METRIC),
        needs=frozenset({Capability.GRADIENTS}),
        curves=ATTACK_CURVES,
        flags=ATTACK_FLAGS,
        references=("Cinà et al. 2025 (sigma-zero), https://arxiv.org/abs/2402.01879",),
    )

    eps: Budgets = (1.0, 2.0, 3.0, 5.0, 10.0)
    """How many pixels may change."""
    steps: Annotated[int, Field(ge=1)] = 100

    def __post_init__(self) -> None:
        """Refuse parts of a pixel."""
        require_whole(self.eps)

    @property
    def norm(self) -> Norm:
        """Pixels are counted."""
        return "l0"

    @property
    def goal(self) -> Goal:
        """The success with the fewest pixels."""
        return "nearest"

    def start(self, origin: Origin) -> SparseGradientState:
        """Start at the clean image."""
        nothing = torch.zeros_like(origin.images)
        return SparseGradientState(
            images=origin.images,
            clean=origin.images,
            labels=origin.labels,
            mean=nothing,
            squares=nothing,
            threshold=torch.full_like(origin.eps, _FIRST_THRESHOLD),
            best=origin.images,
            count=torch.full_like(origin.eps, torch.inf),
            exchanging=torch.zeros_like(origin.warm),
            given_up=torch.zeros_like(origin.warm),
            step=torch.zeros_like(origin.labels),
            rng=origin.rng,
        )

    def step(self, model: Queries, state: SparseGradientState) -> SparseGradientState:
        """Ask about the point and about points with fewer or other pixels, note the best success, and move on."""
        scores, slope = model.gradient(state.images, _margin, state.labels)
        fooled = scores.argmax(1) != state.labels
        noted = _noted(state, state.images, fooled)
        one_by_one = state.exchanging & ~(fooled & (noted.count > _CANDIDATES))
        asked = torch.where(one_by_one.view(-1, 1, 1, 1, 1), _exchanges(state, slope, fooled), _excerpts(noted, slope))
        labels = state.labels.repeat_interleave(_CANDIDATES)
        answers = model.logits(asked.flatten(0, 1))
        wrong = (answers.argmax(1) != labels).view(-1, _CANDIDATES)
        for number in range(_CANDIDATES):
            noted = _noted(noted, asked[:, number], wrong[:, number])
        exchanged = _lowest(state, asked, _margin(answers, labels), _margin(scores, state.labels), fooled)
        exchanged = torch.where(_column(noted.count < state.count), noted.best, exchanged)
        descended = self._descended(noted, slope, fooled)
        images = torch.where(_column(state.exchanging), exchanged, descended.images)
        begins = ~state.exchanging & (state.step + 1 >= _DESCENDING * self.steps) & noted.count.isfinite()
        return replace(
            descended,
            images=torch.where(_column(begins), noted.best, images),
            exchanging=state.exchanging | begins,
            given_up=noted.count <= 1,
            step=state.step + 1,
        )

    def control(self, origin: Origin) -> Tensor:
        """Change random pixels to random corner colours."""
        return random_pixels(origin)

    def _descended(self, state: SparseGradientState, slope: Tensor, fooled: Tensor) -> SparseGradientState:
        """Return the state after a step of Adam down the margin and the number of pixels."""
        change = state.images - state.clean
        gradient = _unit(torch.where(_column(fooled), 0.0, slope) + _slope_of_count(change))
        done = state.step / max(self.steps - 1, 1)
        length = _LAST_LENGTH + (_FIRST_LENGTH - _LAST_LENGTH) * (1 + torch.cos(math.pi * done)) / 2
        mean = _MEMORY * state.mean + (1 - _MEMORY) * gradient
        squares = _MEMORY_OF_SQUARES * state.squares + (1 - _MEMORY_OF_SQUARES) * gradient.square()
        unbiased = mean / _column(self._weight(_MEMORY, state.step))
        spread = (squares / _column(self._weight(_MEMORY_OF_SQUARES, state.step))).sqrt() + 1e-8
        moved = (state.images - _column(length) * unbiased / spread).clamp(0, 1)
        threshold = state.threshold + _THRESHOLD_STEP * length * torch.where(fooled, 1.0, -1.0)
        threshold = threshold.clamp(0, 1)
        small = (moved - state.clean).abs().amax(1, keepdim=True) < _column(threshold)
        return replace(
            state,
            images=torch.where(small, state.clean, moved),
            mean=mean,
            squares=squares,
            threshold=threshold,
        )

    def _weight(self, memory: float, step: Tensor) -> Tensor:
        """Return (N,): the weights of all gradients so far in a running mean with this memory."""
        # A table, because a power of a tensor may be rounded otherwise in another batch.
        weights = [1 - memory ** (past + 1) for past in range(self.steps)]
        return torch.tensor(weights, dtype=torch.float32, device=step.device)[step.clamp(max=self.steps - 1)]


def _noted(state: SparseGradientState, images: Tensor, fooled: Tensor) -> SparseGradientState:
    """Return the state with these images as its best ones, where they fool with fewer pixels."""
    count = _changed(images, state.clean).sum(1).to(state.count.dtype)
    # A search copy in half precision may take the clean image itself for fooled.
    better = fooled & (count < state.count) & (count > 0)
    return replace(
        state,
        best=torch.where(_column(better), images, state.best),
        count=torch.where(better, count, state.count),
    )


@dataclass(frozen=True)
class _Moves:
    """P exchanges of each row's point: one pixel is put back, then one gets a colour."""

    source: Tensor
    """int64 (N, P): the place of the pixel that is put back, row by row."""
    target: Tensor
    colour: Tensor
    """float32 (N, C, P)."""

    def where(self, condition: Tensor, other: _Moves) -> _Moves:
        """Return these moves in the rows where the condition (N,) holds, the other ones elsewhere."""
        rows = condition.unsqueeze(1)
        return _Moves(
            torch.where(rows, self.source, other.source),
            torch.where(rows, self.target, other.target),
            torch.where(rows.unsqueeze(2), self.colour, other.colour),
        )


def _exchanges(state: SparseGradientState, slope: Tensor, fooled: Tensor) -> Tensor:
    """Return images (N, P, C, H, W), each with one pixel of the row's point exchanged for another place or colour.

    A row that is fooled gives up one of the pixels that do least. Of the exchanges of any other row some go where the
    gradient leads; in the others a pixel moves a little or changes its colour.
    """
    led, near = _led_moves(state, slope.flatten(2)), _near_moves(state)
    both = _Moves(
        torch.cat([led.source, near.source], 1),
        torch.cat([led.target, near.target], 1),
        torch.cat([led.colour, near.colour], 2),
    )
    moves = _withdrawals(state, slope).where(fooled, both)
    flat, clean = state.images.flatten(2).unsqueeze(1), state.clean.flatten(2).unsqueeze(1)
    places = torch.arange(flat.shape[3], device=flat.device)
    put_back, painted = (places == place.unsqueeze(2) for place in (moves.source, moves.target))
    colour = moves.colour.transpose(1, 2).unsqueeze(3)
    images = torch.where(painted.unsqueeze(2), colour, torch.where(put_back.unsqueeze(2), clean, flat))
    return images.view(*images.shape[:3], *state.images.shape[2:])


def _led_moves(state: SparseGradientState, slope: Tensor) -> _Moves:
    """Return moves to the corner colours by which the margin falls most, to first order, with some chance in it."""
    flat = state.images.flatten(2)
    changed = _changed(state.images, state.clean).unsqueeze(1)
    draws = state.rng.uniform(2 * state.step, (2, _LED, flat.shape[2]))
    corner = (slope < 0).to(flat.dtype)
    gain = (slope * (flat - corner)).sum(1).clamp_min(_TINY).log().unsqueeze(1)
    # The largest sum of a logarithm and a Gumbel number: a draw by a power of the gain.
    target = _first_highest(gain - _TEMPERATURE * (-draws[:, 0].log()).log())
    harm = -(slope * (flat - state.clean.flatten(2))).sum(1).unsqueeze(1)
    largest = torch.where(changed, harm.abs(), 0.0).amax(2, keepdim=True).clamp_min(_TINY)
    least = _first_highest(torch.where(changed, draws[:, 1] - harm / largest, -torch.inf))
    again = changed.expand(-1, _LED, -1).gather(2, target.unsqueeze(2)).squeeze(2)
    return _Moves(torch.where(again, target, least), target, _picked(corner, target))


def _near_moves(state: SparseGradientState) -> _Moves:
    """Return moves of any changed pixel to a random corner colour, or with its colour to a place nearby."""
    channels, height, width = state.images.shape[1:]
    changed = _changed(state.images, state.clean)
    draws = state.rng.uniform(2 * state.step + 1, (_CANDIDATES - _LED, 4 + channels))
    number = (draws[..., 0] * changed.sum(1, keepdim=True)).floor()
    source = _first_highest((changed.cumsum(1).unsqueeze(1) > number.unsqueeze(2)).long())
    shift = (draws[..., 1:3] * (2 * _REACH + 1)).long() - _REACH
    row = (torch.div(source, width, rounding_mode="floor") + shift[..., 0]).clamp(0, height - 1)
    column = (source % width + shift[..., 1]).clamp(0, width - 1)
    recoloured = draws[..., 3] < _RECOLOURED
    corner = (draws[..., 4:] < 0.5).to(state.images.dtype).transpose(1, 2)
    colour = torch.where(recoloured.unsqueeze(1), corner, _picked(state.images.flatten(2), source))
    return _Moves(source, torch.where(recoloured, source, row * width + column), colour)


def _withdrawals(state: SparseGradientState, slope: Tensor) -> _Moves:
    """Return moves that only put a changed pixel back, the least harmful first; the first again if they run out."""
    harm = _harm(state, slope)
    order = harm.argsort(dim=1, stable=True)
    order = order[:, torch.arange(_CANDIDATES, device=order.device) % order.shape[1]]
    place = torch.where(harm.gather(1, order).isfinite(), order, order[:, :1])
    return _Moves(place, place, _picked(state.clean.flatten(2), place))


def _harm(state: SparseGradientState, slope: Tensor) -> Tensor:
    """Return (N, H * W): by how much the margin grows, to first order, when a pixel is put back; infinite if clean."""
    harm = -(slope * (state.images - state.clean)).sum(1).flatten(1)
    return torch.where(_changed(state.images, state.clean), harm, torch.inf)


def _picked(values: Tensor, places: Tensor) -> Tensor:
    """Return (N, C, P): the values (N, C, H * W) at places (N, P)."""
    return values.gather(2, places.unsqueeze(1).expand(-1, values.shape[1], -1))


def _lowest(state: SparseGradientState, asked: Tensor, margins: Tensor, margin: Tensor, fooled: Tensor) -> Tensor:
    """Return the point, or the first of the images asked about with the lowest margin if that is no higher."""
    margins = margins.view(len(asked), -1)
    lowest = _first_highest(-margins)
    chosen = asked.gather(1, lowest.view(-1, 1, 1, 1, 1).expand(-1, 1, *asked.shape[2:])).squeeze(1)
    moves = fooled | (margins.amin(1) <= margin)
    return torch.where(_column(moves), chosen, state.images)


def _excerpts(state: SparseGradientState, slope: Tensor) -> Tensor:
    """Return images (N, P, C, H, W): the point with its best pixels only, fewer than in the best success."""
    harm = _harm(state, slope)
    changed = harm.isfinite()
    order = torch.where(changed, -harm, torch.inf).argsort(dim=1, stable=True)
    ranks = order.argsort(dim=1, stable=True).unsqueeze(1)
    most = torch.minimum(state.count - 1, changed.sum(1)).clamp(max=_LARGEST_EXCERPT)
    shares = torch.arange(1, _CANDIDATES + 1, device=most.device) / _CANDIDATES
    kept = ranks < (most.unsqueeze(1) * shares).ceil().unsqueeze(2)
    kept = kept.view(*kept.shape[:2], 1, *state.images.shape[2:])
    return torch.where(kept, state.images.unsqueeze(1), state.clean.unsqueeze(1))


def _first_highest(values: Tensor) -> Tensor:
    """Return int64: the first place in the last dimension that has the largest value."""
    places = torch.arange(values.shape[-1], device=values.device)
    return torch.where(values == values.amax(-1, keepdim=True), places, len(places) - 1).amin(-1)


def _changed(images: Tensor, clean: Tensor) -> Tensor:
    """Return bool (N, H * W): which pixels differ."""
    return (images != clean).any(1).flatten(1)


def _slope_of_count(change: Tensor) -> Tensor:
    """Return the gradient of the mean over pixels of m^2 / (m^2 + sigma), m^2 the sum of a pixel's squared changes."""
    pixels = math.prod(change.shape[2:])
    square = change.square().sum(1, keepdim=True)
    return 2 * _SIGMA * change / (square + _SIGMA).square() / pixels


def _unit(gradient: Tensor) -> Tensor:
    """Return the gradient of each row divided by its largest value."""
    return gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(_TINY)


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
