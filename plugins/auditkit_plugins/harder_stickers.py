"""Stickers that are chosen to be missed by a detector: none of them is needed, or the network stays quiet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit import Queries
from auditkit_plugins.sticker import Sticker, StickerState, margin_of

__all__ = ["QuietSticker", "RedundantSticker"]

# How far another class must lie above the true one before all effort goes into staying quiet.
_ENOUGH = 0.5


@dataclass(frozen=True)
class RedundantSticker(Sticker):
    """Search stickers that still fool when any one of them is taken away: covering one of them then shows nothing."""

    @property
    def steps(self) -> int:
        """Each step asks about the whole set, and about it without each sticker."""
        return max(self.queries // (self.light + self.dark + 1), 1)

    def ask(self, model: Queries, state: StickerState, stickers: Tensor, images: Tensor) -> Tensor:
        """Return the largest margin (N,) of the whole set and of all that lack one sticker."""
        # What lacks a sticker is only asked about: it is not what is looked for.
        never = torch.full_like(state.margin, torch.inf)
        margins = []
        for missing in range(stickers.shape[1]):
            fewer = stickers.clone()
            fewer[:, missing, 2:] = 0
            answers = model.logits(self.composed(state, fewer), fewer.flatten(1), never)
            margins.append(margin_of(answers, state.labels))
        worst = torch.stack(margins).amax(0)
        return worst.maximum(margin_of(model.logits(images, stickers.flatten(1), worst), state.labels))


@dataclass(frozen=True)
class QuietSticker(Sticker):
    """Search stickers that fool, and with which a detector's score stays below its threshold."""

    alarm: Callable[[Tensor], Tensor] | None = None
    """Images (N, C, H, W) to how far they lie beyond the threshold (N,), in spreads of the score on clean images."""

    def ask(self, model: Queries, state: StickerState, stickers: Tensor, images: Tensor) -> Tensor:
        """Return (N,): what is left of the margin, and of the alarm."""
        assert self.alarm is not None  # noqa: S101 (set by whoever makes one)
        beyond = self.alarm(images).to(state.margin.dtype).clamp_min(0)
        margin = margin_of(model.logits(images, stickers.flatten(1), beyond), state.labels)
        return (margin + _ENOUGH).clamp_min(0) + beyond
