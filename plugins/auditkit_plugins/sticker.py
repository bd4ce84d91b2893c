"""A few plain light and dark rectangles, placed where they hurt: the attack that a roll of tape is enough for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from auditkit import (
    ATTACK_FLAGS,
    ATTACK_METRICS,
    CONTROL_METRIC,
    Attack,
    Budgets,
    Capability,
    Curve,
    ExecutionError,
    Goal,
    Metric,
    Origin,
    Queries,
    Spec,
    Streams,
)

__all__ = ["Sticker", "StickerState", "margin_of"]

# Which share of the queries tries whole sets of stickers, before single ones are moved.
_SHARE_OF_FIRST_TRIES, _MOST_FIRST_TRIES = 0.05, 10
# How often a sticker is put anywhere rather than moved a little; how far it is moved, as a share of the image, at first
# and at last.
_ANYWHERE = 0.5
_FIRST_SHIFT, _LAST_SHIFT = 0.1, 0.04
# How often a sticker is as large as it may be, at first and at last.
_FULL_AT_FIRST, _FULL_AT_LAST = 0.9, 0.3
# How strongly places are preferred to which the gradient points.
_GUIDANCE = 2.0
_DRAWS = 8


@dataclass(frozen=True)
class StickerState:
    """The best set of stickers of each row."""

    images: Tensor
    clean: Tensor
    labels: Tensor
    masks: Tensor
    """bool (N, H, W): where stickers show."""
    side: Tensor
    """float32 (N,): the longest side allowed, in pixels."""
    stickers: Tensor
    """float32 (N, S, 4): top, left, height and width of each, in pixels."""
    appeal: Tensor
    """float32 (N, 2, H, W): the logarithm of how likely a light or a dark sticker is put with its corner here."""
    margin: Tensor
    step: Tensor
    rng: Streams


@dataclass(frozen=True)
class Sticker(Attack):
    """Search places and sizes of light and dark stickers at random, one sticker at a time, and keep what helps."""

    spec: ClassVar[Spec] = Spec(
        id="patch.sticker",
        title="A few plain stickers do not change predictions",
        why=(
            "Unlike faint noise, stickers survive printing, cameras and weather, and anyone can put them there. These "
            "are plain light and dark rectangles; only their places and sizes are chosen, from scores alone. Random "
            "stickers of the same number and size stand beside them: what they do is bad luck, the rest is aim."
        ),
        metrics=(
            *ATTACK_METRICS,
            CONTROL_METRIC,
            Metric("median_queries", "steps", "Median number of queries until the first success", "median", "fooled"),
        ),
        needs=frozenset({Capability.SCORES}),
        curves=(
            Curve(
                "robust_accuracy",
                "Robust accuracy over the number of queries",
                "queries",
                column="steps",
                among="clean_correct",
            ),
        ),
        flags=ATTACK_FLAGS,
        references=(
            "Horváth 2020, Adversarial samples in machine learning (talk)",
            "Croce et al. 2022 (Sparse-RS), https://arxiv.org/abs/2006.12834",
        ),
        presets={"smoke": {"queries": 100}, "standard": {"queries": 500}, "full": {"queries": 5000}},
    )

    light: Annotated[int, Field(ge=0)] = 2
    dark: Annotated[int, Field(ge=0)] = 2
    side: Budgets = (5 / 32,)
    """The longest side of a sticker, as a share of the image's shorter side; several give several budgets."""
    queries: Annotated[int, Field(ge=1)] = 1000
    composition: Literal["overwrite", "add"] = "overwrite"
    """Whether a sticker hides what is below it, or is added to it, and the sum cut off at black and white."""
    strength: Annotated[float, Field(gt=0, le=1)] = 1.0
    """With `add`: how much lighter or darker a sticker makes what is below it."""
    success: Literal["first", "strongest"] = "first"
    """Whether to stop at the first success, or to spend all queries on the largest margin."""
    on_object: bool = False
    """Whether stickers show on the object only, where the data set has masks."""
    guided: bool = False
    """Whether one look at the gradient says where to search first (a model without gradients is searched without)."""
    restarts: Annotated[int, Field(ge=1)] = 1

    def __post_init__(self) -> None:
        """Refuse to search without stickers.

        Raises:
            ValueError: there are none.
        """
        if not self.light + self.dark:
            raise ValueError("at least one light or dark sticker is needed")

    @property
    def eps(self) -> tuple[float, ...]:  # type: ignore[override]
        """The share of the pixels that all stickers together may cover, for each side."""
        return tuple((self.light + self.dark) * side * side for side in self.side)

    @property
    def norm(self) -> Literal["area"]:
        """What counts is the share of the image that is covered."""
        return "area"

    @property
    def goal(self) -> Goal:
        """As the option says."""
        return self.success

    @property
    def steps(self) -> int:
        """One a query."""
        return self.queries

    @property
    def marks(self) -> tuple[str, ...]:
        """Where the stickers are, in pixels."""
        names = [f"light{k + 1}" for k in range(self.light)] + [f"dark{k + 1}" for k in range(self.dark)]
        return tuple(f"{name}_{part}" for name in names for part in ("top", "left", "height", "width"))

    def start(self, origin: Origin) -> StickerState:
        """Start with nothing on the image."""
        n, _, height, width = origin.images.shape
        sides = origin.images.new_tensor([_in_pixels(share, origin.images) for share in self.side])
        budgets = origin.eps.new_tensor(self.eps)
        side = sides[(origin.eps.unsqueeze(1) - budgets).abs().argmin(1)]
        return StickerState(
            images=origin.images,
            clean=origin.images,
            labels=origin.labels,
            masks=origin.masks if self.on_object else torch.ones_like(origin.masks),
            side=side,
            stickers=origin.images.new_zeros((n, self.light + self.dark, 4)),
            appeal=origin.images.new_zeros((n, 2, height, width)),
            margin=torch.full_like(origin.eps, torch.inf),
            step=torch.zeros_like(origin.labels),
            rng=origin.rng,
        )

    def scout(self, model: Queries, state: StickerState) -> StickerState:
        """Ask the gradient which places promise most, if that is wanted and there is one."""
        if not self.guided or not model.differentiable:
            return state
        _, gradient = model.gradient(state.clean, margin_of, state.labels)
        gains = torch.stack([-(gradient * (1 - state.clean)).sum(1), (gradient * state.clean).sum(1)], 1)
        promise = torch.zeros_like(gains)
        for share in self.side:
            side = _in_pixels(share, state.images)
            whole = functional.avg_pool2d(functional.pad(gains, (0, side - 1, 0, side - 1)), side, stride=1)
            promise = torch.where(state.side.view(-1, 1, 1, 1) == side, whole, promise)
        largest = promise.abs().flatten(1).amax(1).clamp_min(1e-20).view(-1, 1, 1, 1)
        return replace(state, appeal=_GUIDANCE * promise / largest)

    def step(self, model: Queries, state: StickerState) -> StickerState:
        """Ask about a new set of stickers, or about the best one with one sticker changed."""
        stickers = self._proposed(state)
        images = self.composed(state, stickers)
        margin = self.ask(model, state, stickers, images)
        better = margin < state.margin
        return replace(
            state,
            images=torch.where(better.view(-1, 1, 1, 1), images, state.images),
            stickers=torch.where(better.view(-1, 1, 1), stickers, state.stickers),
            margin=torch.where(better, margin, state.margin),
            step=state.step + 1,
        )

    def ask(self, model: Queries, state: StickerState, stickers: Tensor, images: Tensor) -> Tensor:
        """Ask about images with these stickers; return how good they are (N,), smaller being better: their margin."""
        return margin_of(model.logits(images, stickers.flatten(1)), state.labels)

    def control(self, origin: Origin) -> Tensor:
        """Put stickers of full size anywhere."""
        state = self.start(origin)
        draws = origin.rng.uniform(0, (self.light + self.dark, _DRAWS))
        corners = self._anywhere(state, draws)
        sides = state.side.view(-1, 1, 1).expand(-1, self.light + self.dark, 2)
        return self.composed(state, self._inside(state, torch.cat([corners, sides], 2)))

    def _proposed(self, state: StickerState) -> Tensor:
        """Return (N, S, 4): all stickers anew in the first queries, then the best set with one sticker changed."""
        count = self.light + self.dark
        draws = state.rng.uniform(state.step, (count + 1, _DRAWS))
        each, choice = draws[:, :count], draws[:, count]
        done = (state.step / self.queries).view(-1, 1, 1)
        extent = state.images.new_tensor(state.images.shape[2:])
        reach = (_FIRST_SHIFT * (_LAST_SHIFT / _FIRST_SHIFT) ** done) * extent
        shift = torch.special.ndtri(each[..., 3:5].double()).float() * reach
        shifted = state.stickers[..., :2] + torch.where(shift.abs() < 1, shift.sign(), shift)
        anywhere = (choice[:, :1] < _ANYWHERE).unsqueeze(2)
        corners = torch.where(anywhere, self._anywhere(state, each), shifted)
        side = state.side.view(-1, 1, 1)
        random_sides = 1 + (each[..., 5:7] * side).floor()
        full = _FULL_AT_FIRST + (_FULL_AT_LAST - _FULL_AT_FIRST) * done.sqrt()
        sides = torch.where(each[..., 7:8] < full, side.expand_as(random_sides), random_sides)
        fresh = torch.cat([corners, sides], 2)
        chosen = (choice[:, 1:2] * count).long().clamp(max=count - 1)
        one = (torch.arange(count, device=chosen.device) == chosen).unsqueeze(2)
        first_tries = min(max(int(self.queries * _SHARE_OF_FIRST_TRIES), 1), _MOST_FIRST_TRIES)
        first = (state.step < first_tries).view(-1, 1, 1)
        wholly_new = torch.cat([self._anywhere(state, each), sides], 2)
        return self._inside(state, torch.where(first, wholly_new, torch.where(one, fresh, state.stickers)))

    def _anywhere(self, state: StickerState, draws: Tensor) -> Tensor:
        """Return (N, S, 2): a corner for each sticker, drawn by its appeal."""
        height, width = state.images.shape[2:]
        if not self.guided:
            extent = state.images.new_tensor([height, width]) - state.side.view(-1, 1, 1) + 1
            return (draws[..., :2] * extent).floor()
        kinds = torch.tensor([0] * self.light + [1] * self.dark, device=draws.device)
        likely = state.appeal.flatten(2).softmax(2).cumsum(2).index_select(1, kinds)
        at = torch.searchsorted(likely, draws[..., :1].contiguous()).clamp(max=height * width - 1)
        return torch.cat([torch.div(at, width, rounding_mode="floor"), at % width], 2).to(draws.dtype)

    def _inside(self, state: StickerState, stickers: Tensor) -> Tensor:
        """Return the stickers moved into the image."""
        extent = state.images.new_tensor(state.images.shape[2:])
        sides = stickers[..., 2:]
        corners = stickers[..., :2].round().minimum(extent - sides).clamp(min=0)
        return torch.cat([corners, sides], 2)

    def composed(self, state: StickerState, stickers: Tensor) -> Tensor:
        """Return (N, C, H, W): the clean images with these stickers."""
        light = (self._shapes(state, stickers[:, : self.light])).unsqueeze(2)
        dark = (self._shapes(state, stickers[:, self.light :])).unsqueeze(2)
        if self.composition == "add":
            return (state.clean + self.strength * (light.float().sum(1) - dark.float().sum(1))).clamp(0, 1)
        return torch.where(dark.any(1), 0.0, torch.where(light.any(1), 1.0, state.clean))

    def _shapes(self, state: StickerState, stickers: Tensor) -> Tensor:
        """Return bool (N, S, H, W): where each sticker shows."""
        height, width = state.images.shape[2:]
        top, left, tall, wide = (part.unsqueeze(3) for part in stickers.unsqueeze(2).unbind(3))
        rows = torch.arange(height, device=stickers.device).view(1, 1, -1, 1)
        columns = torch.arange(width, device=stickers.device).view(1, 1, 1, -1)
        inside = (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)
        return inside & state.masks.unsqueeze(1)


def _in_pixels(share: float, images: Tensor) -> int:
    """Return the longest side of a sticker, given as a share of the image's shorter side."""
    shorter = min(images.shape[2:])
    side = int(share * shorter + 1e-6)
    if side < 1:
        raise ExecutionError(f"a sticker's side of {share:g} is less than one pixel of images {shorter} pixels wide")
    return side


def margin_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (N,): how far the score (N, K) of its own class lies above the best other one of each row."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own - logits.scatter(1, labels.unsqueeze(1), -math.inf).amax(1)
