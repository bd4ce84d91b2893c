"""The kinds of stickers that a detector is judged on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from auditkit import CLEAN_LOGITS, Attack, Context, Model, Origin, Samples, Shelf, from_16bit
from auditkit_plugins.harder_stickers import QuietSticker, RedundantSticker
from auditkit_plugins.placed_patch import PlacedPatch
from auditkit_plugins.sticker import Sticker

__all__ = ["KINDS", "LEARNED_FROM", "Stickered", "attack_of", "attacked_by", "random_stickers"]

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "minimal": "2 light and 2 dark stickers, stopped at the first success",
        "strong": "2 light and 2 dark stickers, moved on to the largest margin",
        "single": "one large light sticker",
        "patch": "a square of free colours at a random place",
        "redundant": "2 light and 2 dark stickers of which each may be taken away",
        "quiet": "2 light and 2 dark stickers that keep the score of the activations low",
    }
)
"""What they are, by name."""

LEARNED_FROM = ("minimal", "strong")
"""The kinds that a rule is fitted on."""

_SINGLE_SIDE = 8 / 32
# A redundant set costs five queries a step, and a quiet one has two things to see to.
_MORE_QUERIES = 4


def attack_of(kind: str, queries: int, side: float, alarm: Callable[[Tensor], Tensor]) -> Attack:
    """Return the attack of one of `KINDS`; `alarm` is what a quiet one listens to, see `QuietSticker`."""
    sides = (side,)
    match kind:
        case "minimal":
            return Sticker(side=sides, queries=queries)
        case "strong":
            return Sticker(side=sides, queries=queries, success="strongest")
        case "single":
            return Sticker(light=1, dark=0, side=(_SINGLE_SIDE,), queries=queries)
        case "patch":
            return PlacedPatch()
        case "redundant":
            return RedundantSticker(side=sides, queries=_MORE_QUERIES * queries, success="strongest")
        case _:
            return QuietSticker(side=sides, queries=_MORE_QUERIES * queries, success="strongest", alarm=alarm)


@dataclass(frozen=True)
class Stickered:
    """Images that an attack turned into others' classes, and what they were."""

    samples: Samples
    """The attacked images, with the labels and ids of the clean ones."""
    clean: Tensor
    """float32 (M, C, H, W)."""
    rows: Tensor
    """int64 (M,): the numbers of their samples."""
    attacked: Tensor
    """bool (N,): the samples that were attacked, for the model knew them."""
    forwards: np.ndarray[tuple[int], np.dtype[np.int64]]
    """(N,)"""

    @property
    def changed(self) -> Tensor:
        """Bool (M, H, W): the pixels that are not as they were."""
        return (self.samples.images != self.clean).any(1)


def attacked_by(attack: Attack, model: Model, samples: Samples, ctx: Context) -> Stickered:
    """Return the samples on which an attack succeeds."""
    alone = replace(ctx, shelf=Shelf(model, samples), progress=lambda finished: None)
    findings = attack.run(model, samples, alone)
    rows = torch.from_numpy(np.flatnonzero(findings.columns["found"])).to(samples.images.device)
    assert findings.attacked is not None  # noqa: S101 (every attack stores them)
    images = from_16bit(findings.attacked, samples.images.device)
    clean = samples.images[rows]
    # What is stored is rounded; only what is further away than that was changed.
    images = torch.where((images - clean).abs() <= 1 / 65535, clean, images)
    assert findings.forwards is not None  # noqa: S101 (every attack counts them)
    return Stickered(
        Samples(images, samples.labels[rows], tuple(samples.ids[row] for row in rows.tolist())),
        clean,
        rows,
        torch.from_numpy(findings.columns["clean_correct"]),
        findings.forwards,
    )


def random_stickers(model: Model, samples: Samples, side: float, ctx: Context) -> Tensor:
    """Return the images (N, C, H, W) with 2 light and 2 dark stickers anywhere."""
    attack = Sticker(side=(side,))
    origin = Origin(
        images=samples.images,
        labels=samples.labels,
        eps=torch.full((len(samples),), attack.eps[-1], device=samples.images.device),
        restart=torch.zeros_like(samples.labels),
        logits=ctx.shelf.get(CLEAN_LOGITS),
        points=samples.images,
        masks=torch.ones_like(samples.images[:, 0], dtype=torch.bool),
        warm=torch.zeros_like(samples.labels, dtype=torch.bool),
        rng=ctx.streams(samples.ids, "harmless"),
    )
    return attack.control(origin)
