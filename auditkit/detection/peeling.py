"""Greedy peeling: cover the strongest place, look again, and so on, for stickers that are not alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from auditkit.artifacts import Shelf
from auditkit.covers import CoverSweep, Fill, Windows, filling
from auditkit.detection.consistency import Consistency
from auditkit.samples import Samples

__all__ = ["peeled_dissent"]


def peeled_dissent(
    shelf: Shelf,
    first: Consistency,
    windows: Windows,
    fill: Fill,
    rounds: int,
    pause: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return float64 (N,): the highest probability that any cover gives to another class, in any round.

    After each sweep the cover under which the decision keeps least of its margin stays on the image, and the next sweep
    covers one more place. `first` is what the first sweep of the shelf's samples showed; each round costs a forward
    pass for each window.
    """
    samples = shelf.samples
    images, dissent, window = samples.images, first.score("dissent"), first.window
    fills = filling(fill, windows)(images).expand_as(images)
    for _ in range(rounds):
        images = _covered(images, fills, windows, window)
        sweep = Shelf(shelf.model, Samples(images, samples.labels, samples.ids)).get(
            CoverSweep(windows, fill, pause).artifact
        )
        own = first.decision.view(-1, 1, 1).expand(-1, len(windows), 1)
        others = torch.softmax(sweep.double(), 2).scatter(2, own, 0.0)
        dissent = dissent.maximum(others.amax((1, 2)))
        kept = sweep.gather(2, own).squeeze(2) - sweep.scatter(2, own, -torch.inf).amax(2)
        window = kept.argmin(1)
    return dissent


def _covered(images: Tensor, fills: Tensor, windows: Windows, window: Tensor) -> Tensor:
    """Return the images (N, C, H, W), each with its own window covered."""
    corners = torch.tensor(windows.corners, device=images.device)[window]
    top, left = (corners[:, axis].view(-1, 1, 1, 1) for axis in (0, 1))
    rows = torch.arange(windows.image_height, device=images.device).view(1, 1, -1, 1)
    columns = torch.arange(windows.image_width, device=images.device).view(1, 1, 1, -1)
    inside = (rows >= top) & (rows < top + windows.height) & (columns >= left) & (columns < left + windows.width)
    return torch.where(inside, fills, images)
