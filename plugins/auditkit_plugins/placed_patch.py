"""A square of free colours at a random place of each image: what a sticker with a printed pattern can do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from auditkit import Attack, Goal, Origin, Queries, Spec
from auditkit_plugins.sticker import Sticker, margin_of

__all__ = ["PlacedPatch", "PlacedPatchState"]

_FIRST_STEP = 0.1


@dataclass(frozen=True)
class PlacedPatchState:
    """The patch of each row."""

    images: Tensor
    clean: Tensor
    labels: Tensor
    masks: Tensor
    """bool (N, 1, H, W): true inside the patch."""
    step: Tensor


@dataclass(frozen=True)
class PlacedPatch(Attack):
    """Follow the sign of the gradient inside a square, from random colours on (Karmon et al. 2018, LaVAN)."""

    spec: ClassVar[Spec] = Sticker.spec

    side: float = 7 / 32
    """As a share of the image's shorter side."""
    moves: int = 40
    """Steps of the gradient."""
    restarts: int = 1

    @property
    def steps(self) -> int:
        """One a move."""
        return self.moves

    @property
    def eps(self) -> tuple[float, ...]:  # type: ignore[override]
        """The share of the pixels that the patch may cover."""
        return (self.side * self.side,)

    @property
    def norm(self) -> Literal["area"]:
        """What counts is the share of the image that is covered."""
        return "area"

    @property
    def goal(self) -> Goal:
        """All steps are spent."""
        return "strongest"

    def start(self, origin: Origin) -> PlacedPatchState:
        """Put a square of random colours anywhere."""
        n, _, height, width = origin.images.shape
        side = max(int(self.side * min(height, width) + 1e-6), 1)
        extent = origin.images.new_tensor([height - side + 1, width - side + 1])
        corner = (origin.rng.uniform(0, (2,)) * extent).floor().view(n, 2, 1, 1, 1)
        rows = torch.arange(height, device=corner.device).view(1, 1, -1, 1)
        columns = torch.arange(width, device=corner.device).view(1, 1, 1, -1)
        down, across = rows - corner[:, 0], columns - corner[:, 1]
        masks = (down >= 0) & (down < side) & (across >= 0) & (across < side)
        colours = origin.rng.uniform(1, origin.images.shape[1:])
        images = torch.where(masks, colours, origin.images)
        return PlacedPatchState(images, origin.images, origin.labels, masks, torch.zeros_like(origin.labels))

    def step(self, model: Queries, state: PlacedPatchState) -> PlacedPatchState:
        """Take one step, shorter and shorter, towards another class."""
        _, gradient = model.gradient(state.images, margin_of, state.labels)
        length = (_FIRST_STEP * (1 - state.step / self.moves)).view(-1, 1, 1, 1)
        moved = (state.images - length * gradient.sign()).clamp(0, 1)
        return replace(state, images=torch.where(state.masks, moved, state.clean), step=state.step + 1)
