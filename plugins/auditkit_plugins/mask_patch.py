"""Colours inside a mask, given or found: the attack on which a sticker of free shape and colour would be modelled."""

from __future__ import annotations

import math
import zipfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from auditkit import (
    ATTACK_CURVES,
    ATTACK_FLAGS,
    ATTACK_METRICS,
    CONTROL_METRIC,
    Attack,
    Budgets,
    Capability,
    Expectation,
    Goal,
    Origin,
    Queries,
    Spec,
    Streams,
    UsageError,
)
from auditkit_plugins.eot import Draws, goal_under, photographs

__all__ = ["MaskPatch", "MaskPatchState"]

# Height over width of the rectangles that are tried in every place.
_ASPECTS = (1 / 4, 1 / 2, 1.0, 2.0, 4.0)
# How much less a pixel counts, when the next mask is chosen, for each round that has tried it.
_TRIED = 0.5
_FIRST_STEP, _LAST_STEP = 0.2, 0.02
_MOMENTUM = 0.9
# How much of what earlier steps said about an image's gradient is kept at each step.
_MEMORY = 0.9
_PAINTED = 0.5
# From which value on a pixel of a mask with soft edges belongs to it.
_INSIDE = 0.5


@dataclass(frozen=True)
class MaskPatchState:
    """The mask of each row, and the colours inside it."""

    images: Tensor
    clean: Tensor
    labels: Tensor
    eps: Tensor
    allowed: Tensor
    """bool (N, H, W): where masks may lie; for a given mask, the mask."""
    mask: Tensor
    """bool (N, H, W): the mask of this round."""
    gradient: Tensor
    """float32 (N, C, H, W): the recent gradients of the loss, each of mean size 1, the latest counting most."""
    velocity: Tensor
    visits: Tensor
    """float32 (N, H, W): how many rounds had a pixel in their mask."""
    step: Tensor
    rng: Streams


@dataclass(frozen=True)
class MaskPatch(Attack):
    """Find the rectangles where colour matters most, then the colours; try other rectangles when those fail.

    The steps are spent in rounds. Each round takes the mask that promises most by all gradients seen so far (a given
    mask stays), starts at the darkest and lightest colours that the gradient asks for, and follows it inside the mask.
    """

    spec: ClassVar[Spec] = Spec(
        id="patch.mask",
        title="No colours inside a small mask change predictions",
        why=(
            "A few coloured stickers on a traffic sign are taken for vandalism, and can be made to turn a stop sign "
            "into a speed limit: that was shown on real signs. Here the stickers may have any colours; where they lie "
            "is given, or searched for as well. Random colours beside them tell what mere covering does."
        ),
        metrics=(*ATTACK_METRICS, CONTROL_METRIC),
        needs=frozenset({Capability.GRADIENTS}),
        curves=ATTACK_CURVES,
        flags=ATTACK_FLAGS,
        references=("Eykholt et al. 2018 (RP2), https://arxiv.org/abs/1707.08945",),
        presets={
            "standard": {"area": "0.01, 0.02, 0.05"},
            "full": {"area": "0.005, 0.01, 0.02, 0.05, 0.1", "steps": 600, "rounds": 20},
        },
    )

    area: Budgets = (0.02,)
    """The share of the pixels that the mask may hold; several give a curve. Not used with a given mask."""
    mask: str | None = None
    """A file (.npy, or .npz with the key mask) of the given mask, (H, W) or (H, W, C); None: masks are searched for."""
    rectangles: Annotated[int, Field(ge=1)] = 2
    """Of how many rectangles a mask that is searched for is made."""
    steps: Annotated[int, Field(ge=1)] = 120
    rounds: Annotated[int, Field(ge=1)] = 6
    """In how many rounds the steps are spent: each has a new mask, or starts at new colours inside a given one."""
    target: Annotated[int, Field(ge=0)] | None = None
    """The class that the colours are steered to; any wrong class counts. None: the one that is nearest."""
    on_object: bool = False
    """Whether the colours show on the object only, where the data set has masks."""
    eot: Draws = 0
    """Over how many random photographs of the image each gradient is averaged (`true`: 4), to find what survives a
    camera; the success that fools them most clearly is kept. 0: none."""

    def __post_init__(self) -> None:
        """Read the given mask.

        Raises:
            ValueError: there is no such file, it holds no mask, or an area is none.
        """
        if not all(0 < area <= 1 for area in self.area):
            raise ValueError("an area is a share of the image, larger than 0 and at most 1")
        if self.mask is not None and not self._given.any():
            raise ValueError(f"{self.mask}: the mask holds no pixel")

    @cached_property
    def _given(self) -> npt.NDArray[np.bool_]:
        """The given mask, bool (H, W)."""
        return _read_mask(str(self.mask))

    @property
    def eps(self) -> tuple[float, ...]:  # type: ignore[override]
        """The share of the pixels that may change."""
        return self.area if self.mask is None else (float(self._given.mean()),)

    @property
    def goal(self) -> Goal:
        """The first success; under photographs the strongest."""
        return goal_under(self.eot)

    @property
    def expectation(self) -> Expectation | None:
        """Photographs, if wanted."""
        return photographs(self.eot)

    @property
    def norm(self) -> Literal["area"]:
        """What counts is the share of the image that is covered."""
        return "area"

    def start(self, origin: Origin) -> MaskPatchState:
        """Start with nothing on the image."""
        return MaskPatchState(
            images=origin.images,
            clean=origin.images,
            labels=origin.labels,
            eps=origin.eps,
            allowed=self._allowed(origin),
            mask=torch.zeros_like(origin.masks),
            gradient=torch.zeros_like(origin.images),
            velocity=torch.zeros_like(origin.images),
            visits=torch.zeros_like(origin.images[:, 0]),
            step=torch.zeros_like(origin.labels),
            rng=origin.rng,
        )

    def step(self, model: Queries, state: MaskPatchState) -> MaskPatchState:
        """Follow the gradient inside the mask; where a round begins, choose its mask and its first colours."""
        _, gradient = model.gradient(state.images, self._loss, state.labels)
        gradient = gradient / gradient.abs().flatten(1).mean(1).clamp_min(1e-20).view(-1, 1, 1, 1)
        seen = replace(state, gradient=_MEMORY * state.gradient + gradient, step=state.step + 1)
        begins = (state.step % self._steps_a_round == 0).view(-1, 1, 1, 1)
        fresh, further = self._begun(seen), self._stepped(seen, gradient)
        return replace(
            seen,
            images=torch.where(begins, fresh.images, further.images),
            mask=torch.where(begins[:, 0], fresh.mask, further.mask),
            velocity=torch.where(begins, fresh.velocity, further.velocity),
            visits=torch.where(begins[:, 0], fresh.visits, further.visits),
        )

    def control(self, origin: Origin) -> Tensor:
        """Put random colours into the given mask, or into rectangles of the same area anywhere."""
        state = self.start(origin)
        channels, height, width = origin.images.shape[1:]
        draws = origin.rng.uniform(0, (channels + 1, height, width))
        mask = state.allowed if self.mask is not None else self._found(state, draws[:, -1])
        return torch.where(mask.unsqueeze(1), draws[:, :-1], origin.images)

    @property
    def _steps_a_round(self) -> int:
        return max(1, self.steps // self.rounds)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return how far each row is from a wrong class: the nearest one, or the target where that is a wrong one."""
        nearest = _margin(logits, labels)
        if self.target is None:
            return nearest
        if self.target >= logits.shape[1]:
            raise UsageError(f"target is one of the {logits.shape[1]} classes from 0; got {self.target}")
        return torch.where(labels == self.target, nearest, -_margin(logits, torch.full_like(labels, self.target)))

    def _allowed(self, origin: Origin) -> Tensor:
        everywhere = origin.masks if self.on_object else torch.ones_like(origin.masks)
        if self.mask is None:
            return everywhere
        size = tuple(origin.images.shape[2:])
        if self._given.shape != size:
            raise UsageError(f"{self.mask}: the mask is {_times(self._given.shape)} pixels, the images {_times(size)}")
        return everywhere & torch.from_numpy(self._given).to(everywhere.device)

    def _begun(self, state: MaskPatchState) -> MaskPatchState:
        """Return the state at the beginning of a round."""
        gain = (state.gradient.abs() * _headroom(state.clean, state.gradient)).sum(1) * _TRIED**state.visits
        mask = state.allowed if self.mask is not None else self._found(state, gain)
        first = (state.step <= self._steps_a_round).view(-1, 1, 1, 1)
        corner = (state.gradient < 0).to(state.clean.dtype)
        # A given mask has one best guess; later rounds begin elsewhere.
        painted = (state.rng.uniform(state.step, state.clean.shape[1:]) < _PAINTED).to(state.clean.dtype)
        colours = corner if self.mask is None else torch.where(first, corner, painted)
        return replace(
            state,
            images=torch.where(mask.unsqueeze(1), colours, state.clean),
            mask=mask,
            velocity=torch.zeros_like(state.velocity),
            visits=state.visits + mask,
        )

    def _stepped(self, state: MaskPatchState, gradient: Tensor) -> MaskPatchState:
        """Return the state after one step inside the mask."""
        done = ((state.step - 1) % self._steps_a_round) / self._steps_a_round
        length = (_FIRST_STEP * (_LAST_STEP / _FIRST_STEP) ** done).view(-1, 1, 1, 1)
        velocity = _MOMENTUM * state.velocity + gradient
        moved = (state.images - length * velocity.sign()).clamp(0, 1)
        return replace(state, images=torch.where(state.mask.unsqueeze(1), moved, state.clean), velocity=velocity)

    def _found(self, state: MaskPatchState, gain: Tensor) -> Tensor:
        """Return bool (N, H, W): rectangles, each where it holds most of the gain (N, H, W) that is left."""
        budget = (state.eps * math.prod(gain.shape[1:]) + 1e-3).floor()
        mask = torch.zeros_like(state.allowed)
        for left in range(self.rectangles, 0, -1):
            spent = mask.flatten(1).sum(1)
            rectangle = _best_rectangle((gain + 1e-12) * (state.allowed & ~mask), ((budget - spent) / left).floor())
            mask = mask | (rectangle & state.allowed)
        return mask


def _best_rectangle(gain: Tensor, pixels: Tensor) -> Tensor:
    """Return bool (N, H, W): the rectangle of at most so many pixels (N,) that holds most of the gain (N, H, W)."""
    height, width = gain.shape[1:]
    aspects = torch.tensor(_ASPECTS, device=gain.device)
    pixels = pixels.unsqueeze(1)
    tall = (pixels * aspects).sqrt().round().clamp(1, height)
    wide = (pixels / tall).floor().clamp(max=width)
    tall = (pixels / wide.clamp_min(1)).floor().clamp(max=height)
    rows, columns = (torch.arange(size, device=gain.device) for size in (height, width))
    at = _window_sums(gain, tall.long(), wide.long()).flatten(1).argmax(1, keepdim=True)
    chosen = torch.div(at, height * width, rounding_mode="floor")
    top, left = torch.div(at, width, rounding_mode="floor") % height, at % width
    in_rows = (rows >= top) & (rows < top + tall.gather(1, chosen))
    in_columns = (columns >= left) & (columns < left + wide.gather(1, chosen))
    return in_rows.unsqueeze(2) & in_columns.unsqueeze(1)


def _window_sums(values: Tensor, tall: Tensor, wide: Tensor) -> Tensor:
    """Return (N, A, H, W): what (N, H, W) adds up to in each window of A sizes (N, A), by its upper left pixel."""
    n, height, width = values.shape
    kinds = tall.shape[1]
    sums = functional.pad(values.double().cumsum(1).cumsum(2), (1, 0, 1, 0)).unsqueeze(1).expand(n, kinds, -1, -1)
    ends = (torch.arange(height, device=values.device) + tall.unsqueeze(2)).clamp(max=height).unsqueeze(3)
    strips = sums.gather(2, ends.expand(-1, -1, -1, width + 1)) - sums[:, :, :height]
    ends = (torch.arange(width, device=values.device) + wide.unsqueeze(2)).clamp(max=width).unsqueeze(2)
    return strips.gather(3, ends.expand(-1, -1, height, -1)) - strips[..., :width]


def _headroom(clean: Tensor, gradient: Tensor) -> Tensor:
    """Return how far each colour value can go against the gradient."""
    return torch.where(gradient < 0, 1 - clean, clean)


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own - logits.scatter(1, labels.unsqueeze(1), -math.inf).amax(1)


def _read_mask(file: str) -> npt.NDArray[np.bool_]:
    """Return bool (H, W): true where any channel of the file's mask is above one half.

    Raises:
        ValueError: there is no such file, or it holds no mask.
    """
    try:
        loaded = np.load(Path(file), allow_pickle=False)
        array = loaded if isinstance(loaded, np.ndarray) else loaded["mask"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} is no .npy file, nor an .npz file with the key mask: {error}") from None
    if array.ndim not in (2, 3) or array.dtype.kind not in "biuf":
        raise ValueError(f"{file}: a mask has the shape (H, W) or (H, W, C); got {array.shape} of {array.dtype}")
    return np.asarray((array > _INSIDE).reshape(*array.shape[:2], -1).any(axis=2), dtype=np.bool_)


def _times(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
