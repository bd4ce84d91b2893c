"""Whether a map names the pixels that decide: they are taken away, or shown, the strongest first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Faithfulness", "area_under", "curve", "elsewhere", "faithfulness", "places", "replaced"]

Scores = Callable[[Tensor, Tensor], Tensor]
"""Images (B, C, H, W), and int64 (B,) with the numbers of their rows, to scores (B,)."""


@dataclass(frozen=True)
class Faithfulness:
    """Mean scores of N images, float64 (N,), on the way from all pixels to none and back."""

    deletion: Tensor
    deletion_control: Tensor
    insertion: Tensor
    insertion_control: Tensor


def faithfulness(
    scores: Scores,
    images: Tensor,
    plain: Tensor,
    blurred: Tensor,
    order: Tensor,
    control: Tensor,
    steps: int,
    batch: int,
    pause: Callable[[], None] = lambda: None,
) -> Faithfulness:
    """Take pixels away, and show them, in the order of a map and in that of a control.

    A faithful map has a smaller deletion than its control, and a larger insertion (https://arxiv.org/abs/1806.07421).

    Args:
        scores: what is watched, such as the probability of a class.
        images: (N, C, H, W).
        plain: what images become when pixels are taken away.
        blurred: where the way back begins.
        order: the place of each pixel (N, H, W) by the map, see `places`.
        control: the same by something that knows nothing of the model.
        steps: equal parts of the pixels, at least 2.
        batch: how many images exist at once.
        pause: called before each batch.
    """
    rows = torch.arange(len(images), device=images.device)
    clean, without, veiled = (scores(shown, rows) for shown in (images, plain, blurred))

    def deletion(by: Tensor) -> Tensor:
        return area_under(clean, curve(scores, images, plain, by, steps, batch, pause), without)

    def insertion(by: Tensor) -> Tensor:
        return area_under(veiled, curve(scores, blurred, images, by, steps, batch, pause), clean)

    return Faithfulness(deletion(order), deletion(control), insertion(order), insertion(control))


def places(maps: Tensor, lots: Tensor) -> Tensor:
    """Return int64 (N, H, W): the place of each pixel when those of its map are sorted, 0 for the largest value.

    Where values of `maps` (N, H, W) are equal, the smaller number of `lots` (N, H, W) comes first.
    """
    drawn = lots.flatten(1).argsort(dim=1, stable=True)
    sorted_in = maps.flatten(1).gather(1, drawn).argsort(dim=1, descending=True, stable=True)
    order = drawn.gather(1, sorted_in)
    numbers = torch.arange(order.shape[1], device=maps.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, numbers).view(maps.shape)


def elsewhere(maps: Tensor, draws: Tensor) -> Tensor:
    """Return maps (N, H, W), each moved to another place by its draw (N,) in (0, 1); what leaves comes in opposite."""
    n, height, width = maps.shape
    # Any offset but none at all.
    offset = 1 + (draws.double() * (height * width - 1)).long()
    rows = (torch.arange(height, device=maps.device) - (offset // width % height).unsqueeze(1)) % height
    columns = (torch.arange(width, device=maps.device) - (offset % width).unsqueeze(1)) % width
    return maps[torch.arange(n, device=maps.device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def replaced(images: Tensor, others: Tensor, order: Tensor, count: Tensor) -> Tensor:
    """Return images (N, C, H, W) whose first `count` (N,) pixels in `order` (N, H, W) are those of `others`."""
    return torch.where((order < count.view(-1, 1, 1)).unsqueeze(1), others, images)


def curve(
    scores: Scores,
    images: Tensor,
    others: Tensor,
    order: Tensor,
    steps: int,
    batch: int,
    pause: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return float64 (N, steps - 1): the scores while images (N, C, H, W) turn into `others` in equal steps.

    The first step is the first that changes anything, and the last leaves something to change: what comes before and
    after are the two images themselves.

    Args:
        scores: what is watched.
        images: where the curve begins.
        others: (N, C, H, W), where it ends.
        order: the place of each pixel (N, H, W) in the order in which they change.
        steps: equal parts of the pixels, at least 2.
        batch: how many images exist at once.
        pause: called before each batch.
    """
    n, pixels = len(images), order[0].numel()
    counts = torch.tensor([step * pixels // steps for step in range(1, steps)], device=images.device)
    said = []
    for start in range(0, n * len(counts), batch):
        pause()
        at = torch.arange(start, min(start + batch, n * len(counts)), device=images.device)
        rows, step = at // len(counts), at % len(counts)
        said.append(scores(replaced(images[rows], others[rows], order[rows], counts[step]), rows).double())
    return torch.cat(said).view(n, len(counts))


def area_under(first: Tensor, between: Tensor, last: Tensor) -> Tensor:
    """Return float64 (N,): the mean height of a curve through first (N,), between (N, S - 1) and last (N,).

    By trapezoids of equal width. Row by row, in the same order for any number of rows.
    """
    total = (first.double() + last.double()) / 2
    for column in between.double().unbind(1):
        total = total + column
    return total / (between.shape[1] + 1)
