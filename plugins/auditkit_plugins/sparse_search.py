"""Sparse-RS: a random search for the few pixels that must change, which is told nothing but scores."""

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
    Norm,
    Origin,
    Queries,
    Spec,
    Streams,
)

__all__ = ["SparseSearch", "SparseSearchState", "random_pixels", "require_whole"]

# Which share of the pixels is replaced at once: the paper's schedule, stretched to any number of queries.
_FIRST_SHARE = 0.3
_DIVISORS = (2, 4, 5, 6, 8, 10, 12, 15, 20)
_ENDS = (0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
# Which share of the queries tries whole sets of pixels, before single ones are replaced.
_SHARE_OF_FIRST_TRIES, _MOST_FIRST_TRIES = 0.05, 20
# How often a pixel that is replaced goes anywhere, and how often it stays where it is and changes its colour; otherwise
# it keeps its colour and moves a little.
_ANYWHERE, _RECOLOURED = 0.5, 0.2
_REACH = 2
# Numbers drawn for a slot besides its colour: the order of replacement, the place, the kind of move, the move itself.
_DRAWS = 5


@dataclass(frozen=True)
class SparseSearchState:
    """The best set of pixels of each row, in slots, of which those below `count` are in use."""

    images: Tensor
    clean: Tensor
    labels: Tensor
    count: Tensor
    """int64 (N,): how many pixels may change."""
    places: Tensor
    """int64 (N, K): the place of each pixel, row by row."""
    colours: Tensor
    """float32 (N, K, C): its colour."""
    margin: Tensor
    """(N,): the margin at `images`, the true logit minus the largest other; infinite before the first query."""
    step: Tensor
    rng: Streams


@dataclass(frozen=True)
class SparseSearch(Attack):
    """Change one pixel of the best set at a time to another place or a corner colour, and keep what does no harm."""

    spec: ClassVar[Spec] = Spec(
        id="pixel.search",
        title="A few pixels, found from scores alone, do not change predictions",
        why=(
            "Dust, a dead sensor cell or a fleck of paint changes few pixels, and those by any amount. This random "
            "search looks for the worst such pixels from scores alone, so hidden gradients do not stop it."
        ),
        metrics=(*ATTACK_METRICS, CONTROL_METRIC),
        needs=frozenset({Capability.SCORES}),
        curves=ATTACK_CURVES,
        flags=ATTACK_FLAGS,
        references=("Croce et al. 2022 (Sparse-RS), https://arxiv.org/abs/2006.12834",),
    )

    eps: Budgets = (1.0, 2.0, 3.0, 5.0, 10.0)
    """How many pixels may change."""
    queries: Annotated[int, Field(ge=1)] = 1000
    restarts: Annotated[int, Field(ge=1)] = 1

    def __post_init__(self) -> None:
        """Refuse parts of a pixel."""
        require_whole(self.eps)

    @property
    def norm(self) -> Norm:
        """Pixels are counted."""
        return "l0"

    @property
    def steps(self) -> int:
        """One a query, that of the start included."""
        return self.queries

    def start(self, origin: Origin) -> SparseSearchState:
        """Start with nothing changed; the first query tries a random set."""
        slots, channels = int(self.eps[-1]), origin.images.shape[1]
        return SparseSearchState(
            images=origin.images,
            clean=origin.images,
            labels=origin.labels,
            count=origin.eps.round().long(),
            places=origin.labels.new_zeros((len(origin.labels), slots)),
            colours=origin.images.new_zeros((len(origin.labels), slots, channels)),
            margin=torch.full_like(origin.eps, torch.inf),
            step=torch.zeros_like(origin.labels),
            rng=origin.rng,
        )

    def step(self, model: Queries, state: SparseSearchState) -> SparseSearchState:
        """Ask about a new set of pixels, or about the best one with some pixels replaced."""
        places, colours = self._proposed(state)
        asked = _painted(state.clean, state.count, places, colours)
        margin = _margin(model.logits(asked), state.labels)
        kept = margin <= state.margin
        return replace(
            state,
            images=torch.where(kept.view(-1, 1, 1, 1), asked, state.images),
            places=torch.where(kept.view(-1, 1), places, state.places),
            colours=torch.where(kept.view(-1, 1, 1), colours, state.colours),
            margin=torch.where(kept, margin, state.margin),
            step=state.step + 1,
        )

    def control(self, origin: Origin) -> Tensor:
        """Change random pixels to random corner colours."""
        return random_pixels(origin)

    def _proposed(self, state: SparseSearchState) -> tuple[Tensor, Tensor]:
        """Return places and colours: all anew in the first queries, then those of the best set with some replaced."""
        slots, channels = state.colours.shape[1:]
        draws = state.rng.uniform(state.step, (slots, _DRAWS + channels))
        first_tries = min(max(int(self.queries * _SHARE_OF_FIRST_TRIES), 1), _MOST_FIRST_TRIES)
        wholly_new = (state.step < first_tries).unsqueeze(1)
        chosen = wholly_new | _chosen(draws[..., 0], state.count, self._replaced(state))
        anywhere = wholly_new | (draws[..., 2] < _ANYWHERE)
        recoloured = anywhere | (draws[..., 2] < _ANYWHERE + _RECOLOURED)
        new_place = _random_places(draws[..., 1], state.clean)
        near = torch.where(recoloured, state.places, _moved(state.places, draws[..., 3:5], state.clean))
        places = torch.where(anywhere, new_place, near)
        colours = torch.where(recoloured.unsqueeze(2), (draws[..., _DRAWS:] < 0.5).float(), state.colours)
        return (
            torch.where(chosen, places, state.places),
            torch.where(chosen.unsqueeze(2), colours, state.colours),
        )

    def _replaced(self, state: SparseSearchState) -> Tensor:
        """Return int64 (N,): how many pixels of each row are replaced at once, at least one."""
        ends = torch.tensor(_ENDS, device=state.step.device) * self.queries
        divisors = torch.tensor(_DIVISORS, device=state.step.device)
        share = _FIRST_SHARE / divisors[(state.step.unsqueeze(1) > ends).sum(1)]
        return (share * state.count).floor().long().clamp(min=1)


def require_whole(eps: tuple[float, ...]) -> None:
    """Refuse budgets that are no numbers of pixels.

    Raises:
        ValueError: a budget is not whole, or is below 1.
    """
    for budget in eps:
        if budget < 1 or budget != int(budget):
            raise ValueError(f"budgets are whole numbers of pixels, 1 or more; not {budget:g}")


def random_pixels(origin: Origin) -> Tensor:
    """Return the images (N, C, H, W) with as many pixels as allowed, wherever, in random corner colours."""
    slots, channels = int(origin.eps.max()), origin.images.shape[1]
    draws = origin.rng.uniform(0, (slots, 1 + channels))
    places = _random_places(draws[..., 0], origin.images)
    return _painted(origin.images, origin.eps.round().long(), places, (draws[..., 1:] < 0.5).float())


def _chosen(order: Tensor, count: Tensor, number: Tensor) -> Tensor:
    """Return bool (N, K): as many slots in use as `number` says, by the order of the draws."""
    idle = torch.arange(order.shape[1], device=order.device) >= count.unsqueeze(1)
    ranks = torch.where(idle, 2.0, order).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return ranks < number.unsqueeze(1)


def _random_places(draws: Tensor, images: Tensor) -> Tensor:
    """Return int64, shaped as the draws from (0, 1): places anywhere in an image, its last row and column included."""
    pixels = math.prod(images.shape[2:])
    return (draws.double() * pixels).long().clamp(max=pixels - 1)


def _moved(places: Tensor, draws: Tensor, images: Tensor) -> Tensor:
    """Return the places moved by up to `_REACH` rows and columns, kept inside the image."""
    height, width = images.shape[2:]
    shift = (draws * (2 * _REACH + 1)).long() - _REACH
    row = (torch.div(places, width, rounding_mode="floor") + shift[..., 0]).clamp(0, height - 1)
    return row * width + (places % width + shift[..., 1]).clamp(0, width - 1)


def _painted(clean: Tensor, count: Tensor, places: Tensor, colours: Tensor) -> Tensor:
    """Return the clean images with the pixels of the slots in use.

    Where several slots hold the same place the first one decides, and slots not in use repeat the first slot: so all
    that is written to one place is the same, in whatever order it is written.
    """
    slots = torch.arange(places.shape[1], device=places.device)
    places = torch.where(slots < count.unsqueeze(1), places, places[:, :1])
    same = places.unsqueeze(2) == places.unsqueeze(1)
    owner = torch.where(same, slots, len(slots)).amin(2).unsqueeze(2).expand_as(colours)
    written = colours.gather(1, owner).transpose(1, 2)
    index = places.unsqueeze(1).expand(-1, clean.shape[1], -1)
    return clean.flatten(2).scatter(2, index, written).view_as(clean)


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
