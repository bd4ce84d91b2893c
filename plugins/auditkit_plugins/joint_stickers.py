"""One set of stickers against two models at once: it must fool both, and is scored by the larger of their margins."""

from __future__ import annotations

import torch
from torch import Tensor

from auditkit import Context, Differentiable, Model, Origin, Queries, Samples, Streams, take_rows
from auditkit_plugins.sticker import Sticker, margin_of

__all__ = ["stickers_for_both"]

Searches = tuple[Differentiable, Differentiable]


class _Both(Queries):
    """Two models that answer as one with two classes: the first has the larger margin for its score, the other 0."""

    def __init__(self, searches: Searches, model: Model, samples: Samples, eps: Tensor) -> None:
        super().__init__(None, model, samples.images, torch.zeros_like(samples.labels), eps, "area")
        self._searches = searches
        self._true = samples.labels

    def logits(self, images: Tensor, marks: Tensor | None = None, worth: Tensor | None = None) -> Tensor:
        """Return float32 (N, 2) for images (N, C, H, W) in [0, 1]; the first is the larger as long as one holds."""
        margins = [margin_of(search.logits(images), self._true) for search in self._searches]
        larger = torch.stack(margins).amax(0)
        return torch.stack([larger, torch.zeros_like(larger)], 1)


def stickers_for_both(
    stickers: Sticker, searches: Searches, model: Model, samples: Samples, ctx: Context
) -> tuple[Tensor, Tensor]:
    """Search, for each sample, stickers that fool both search copies.

    Returns:
        (N, C, H, W), the images with the stickers of the first success, or else with the best ones; and int64 (N,), how
        many forward passes that took.
    """
    images, passes = [samples.images[:0]], [samples.labels[:0]]
    for start in range(0, len(samples), ctx.batch):
        part = samples.take(range(start, min(start + ctx.batch, len(samples))))
        found, asked = _searched(stickers, searches, model, part, ctx)
        images.append(found)
        passes.append(asked)
    return torch.cat(images), torch.cat(passes)


def _searched(
    stickers: Sticker, searches: Searches, model: Model, samples: Samples, ctx: Context
) -> tuple[Tensor, Tensor]:
    origin = _origin(stickers, samples, ctx.streams(samples.ids, "joint"))
    state = stickers.start(origin)
    images, asked = samples.images.clone(), torch.zeros_like(samples.labels)
    rows = torch.arange(len(samples), device=samples.labels.device)
    for _ in range(stickers.steps):
        ctx.check_time()
        state = stickers.step(_Both(searches, model, samples.take(rows), origin.eps[rows]), state)
        images[rows] = state.images
        asked[rows] += len(searches)
        left = (state.margin >= 0).nonzero().flatten()
        if not len(left):
            break
        state, rows = take_rows(state, left), rows[left]
    return images, asked


def _origin(stickers: Sticker, samples: Samples, rng: Streams) -> Origin:
    """Return the start of a search in which class 0 of two is the true one of every sample."""
    n, _, height, width = samples.images.shape
    nothing = torch.zeros_like(samples.labels)
    return Origin(
        images=samples.images,
        labels=nothing,
        eps=samples.images.new_full((n,), stickers.eps[-1]),
        restart=nothing,
        logits=samples.images.new_zeros((n, 2)),
        points=samples.images,
        masks=torch.ones((n, height, width), dtype=torch.bool, device=samples.images.device),
        warm=nothing.bool(),
        rng=rng,
    )
