"""What can be seen of stickers in some images before anything is learned: by covering, listening, and asking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit.artifacts import Shelf
from auditkit.covers import QUICK_LOGITS, CoverSweep, Fill, Windows
from auditkit.detection.activity import activity
from auditkit.detection.consistency import Consistency, consistency

__all__ = ["Evidence", "gather_evidence"]


@dataclass(frozen=True)
class Evidence:
    """What is known about N images."""

    doubt: Tensor
    """float64 (N,): one minus the probability of the decision."""
    consistency: Consistency
    activity: Tensor | None
    """float64 (N, F), see `auditkit.detection.activity`; None where the model's activations cannot be had."""

    @property
    def features(self) -> Tensor:
        """All of it as numbers, float64 (N, G)."""
        parts = [self.doubt.unsqueeze(1), self.consistency.scores]
        return torch.cat(parts if self.activity is None else [*parts, self.activity], 1)


def gather_evidence(shelf: Shelf, windows: Windows, fill: Fill, pause: Callable[[], None] = lambda: None) -> Evidence:
    """Return the evidence about a shelf's samples, at the cost of two forward passes and one for each window.

    `pause` is called before each batch of covered images. The values are those of the model but for rounding.

    Raises:
        ExecutionError: the windows are those of images of another size.
    """
    model, images = shelf.model, shelf.samples.images
    logits = shelf.get(QUICK_LOGITS)
    sweep = shelf.get(CoverSweep(windows, fill, pause).artifact)
    listened = None
    if model.watched is not None and model.sites:
        listened = activity(model.watched, model.sites, images).to(images.device)
    doubt = 1 - torch.softmax(logits.double(), 1).amax(1)
    return Evidence(doubt, consistency(logits, sweep), listened)
