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
# Which share of the steps descends; the rest exchanges single pixels of the best success. In every step a row asks about
# so many other images beside its point, and a pixel that was exchanged is left alone for so many steps.
_DESCENDING = 0.5
_CANDIDATES = 4
_REST = 4
_LARGEST_EXCERPT = 20.0


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
    resting: Tensor
    """int64 (N, H * W): the step from which on a pixel may be exchanged again."""
    given_up: Tensor
    """bool (N,): a single pixel is enough, so there is nothing left to look for."""
    step: Tensor


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
    steps: Annotated[int, Field(ge=1)] = 100  # type: ignore[override]

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
            resting=torch.zeros_like(nothing[:, 0].flatten(1), dtype=torch.int64),
            given_up=torch.zeros_like(origin.warm),
            step=torch.zeros_like(origin.labels),
        )

    def step(self, model: Queries, state: SparseGradientState) -> SparseGradientState:
        """Ask about the point and about points with fewer or other pixels, note the best success, and move on."""
        scores, slope = model.gradient(state.images, _margin, state.labels)
        fooled = scores.argmax(1) != state.labels
        noted = _noted(state, state.images, fooled)
        exchanges, touched = _exchanges(noted, slope, fooled)
        asked = torch.where(state.exchanging.view(-1, 1, 1, 1, 1), exchanges, _excerpts(noted, slope))
        labels = state.labels.repeat_interleave(_CANDIDATES)
        answers = model.logits(asked.flatten(0, 1))
        margins = _margin(answers, labels).view(-1, _CANDIDATES)
        wrong = (answers.argmax(1) != labels).view(-1, _CANDIDATES)
        for number in range(_CANDIDATES):
            noted = _noted(noted, asked[:, number], wrong[:, number])
        lowest = _first_lowest(margins)
        descended = self._descended(noted, slope, fooled)
        chosen = asked.gather(1, lowest.view(-1, 1, 1, 1, 1).expand(-1, 1, *slope.shape[1:])).squeeze(1)
        place = touched.gather(1, lowest.unsqueeze(1))
        begins = ~state.exchanging & (state.step + 1 >= _DESCENDING * self.steps) & noted.count.isfinite()
        images = torch.where(_column(state.exchanging), chosen, descended.images)
        rested = state.resting.scatter(1, place, (state.step + 1 + _REST).unsqueeze(1))
        return replace(
            descended,
            images=torch.where(_column(begins), noted.best, images),
            resting=torch.where(state.exchanging.unsqueeze(1), rested, state.resting),
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
        age = (state.step + 1).double()
        unbiased = mean / _column(1 - _MEMORY**age).float()
        spread = (squares / _column(1 - _MEMORY_OF_SQUARES**age).float()).sqrt() + 1e-8
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


def _noted(state: SparseGradientState, images: Tensor, fooled: Tensor) -> SparseGradientState:
    """Return the state with these images as its best ones, where they fool with fewer pixels."""
    count = _changed(images, state.clean).sum(1).to(state.count.dtype)
    better = fooled & (count < state.count)
    return replace(
        state,
        best=torch.where(_column(better), images, state.best),
        count=torch.where(better, count, state.count),
    )


def _exchanges(state: SparseGradientState, slope: Tensor, fooled: Tensor) -> tuple[Tensor, Tensor]:
    """Return images (N, P, C, H, W) near each row's point, and int64 (N, P) the place where each differs.

    A row that is fooled gives up one of the pixels that do least. Any other row gets one pixel in the colour that the
    slope asks for: one of the changed pixels, or another one in place of the changed pixel that does least.
    """
    flat, clean, slope = state.images.flatten(2), state.clean.flatten(2), slope.flatten(2)
    changed = _changed(state.images, state.clean)
    resting = state.resting > state.step.unsqueeze(1)
    harm = torch.where(changed, -(slope * (flat - clean)).sum(1), torch.inf)
    drop = _first_lowest(torch.where(resting, harm + 1e6, harm))
    corner = (slope < 0).to(flat.dtype)
    gain = (slope * (flat - corner)).sum(1)
    gain = torch.where(changed, gain, gain - harm.gather(1, drop.unsqueeze(1)))
    gain = torch.where(fooled.unsqueeze(1), -harm, torch.where(resting, -torch.inf, gain))
    touched = gain.argsort(dim=1, descending=True, stable=True)[:, :_CANDIDATES]
    touched = torch.cat([touched, touched[:, :1].expand(-1, _CANDIDATES - touched.shape[1])], 1)
    places = torch.arange(gain.shape[1], device=gain.device)
    here = places == touched.unsqueeze(2)
    swapped = ~changed.gather(1, touched).unsqueeze(2) & (places == drop.view(-1, 1, 1))
    put_back = torch.where(fooled.view(-1, 1, 1), here & changed.unsqueeze(1), swapped)
    painted = torch.where((here & ~fooled.view(-1, 1, 1)).unsqueeze(2), corner.unsqueeze(1), flat.unsqueeze(1))
    images = torch.where(put_back.unsqueeze(2), clean.unsqueeze(1), painted)
    return images.unflatten(3, state.clean.shape[2:]), touched


def _excerpts(state: SparseGradientState, slope: Tensor) -> Tensor:
    """Return images (N, P, C, H, W): the point with its best pixels only, fewer than in the best success."""
    change = state.images - state.clean
    harm = -(slope * change).sum(1).flatten(1)
    harm = torch.where(_changed(state.images, state.clean), harm, -torch.inf)
    ranks = harm.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
    most = torch.minimum(state.count - 1, _changed(state.images, state.clean).sum(1)).clamp(max=_LARGEST_EXCERPT)
    shares = torch.arange(1, _CANDIDATES + 1, device=most.device) / _CANDIDATES
    sizes = (most.unsqueeze(1) * shares).ceil()
    kept = ranks.unsqueeze(1) < sizes.unsqueeze(2)
    return torch.where(kept.view(-1, _CANDIDATES, 1, *change.shape[2:]), state.images.unsqueeze(1), state.clean.unsqueeze(1))


def _first_lowest(values: Tensor) -> Tensor:
    """Return int64 (N,): the first place at which a row has its smallest value."""
    places = torch.arange(values.shape[1], device=values.device)
    return torch.where(values == values.amin(1, keepdim=True), places, len(places)).amin(1)


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
