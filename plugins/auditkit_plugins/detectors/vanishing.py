"""Which of the objects that a detector found it no longer finds, one object or one image at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit import (
    CLEAN_DETECTIONS,
    Context,
    Detections,
    Detector,
    Samples,
    found_objects,
    objects_of,
    overlaps,
)

__all__ = ["Target", "all_targets", "found_targets", "gone", "renamed", "tally"]

_IN_ITS_PLACE = 0.5


@dataclass(frozen=True)
class Target:
    """An annotated object that the detector finds in the image as it is."""

    row: int
    """Of the sample."""
    number: int
    """Among the sample's objects."""
    box: Tensor
    """float32 (4,)."""
    category: int


def found_targets(detector: Detector, samples: Samples, ctx: Context) -> list[Target]:
    """Return the objects that the deployed detector finds in the clean images, sample by sample."""
    objects = objects_of(samples)
    found = found_objects(ctx.shelf.get(CLEAN_DETECTIONS), objects, detector.score)
    return [
        Target(row, number, own.boxes[number], int(own.classes[number]))
        for row, (own, seen) in enumerate(zip(objects, found, strict=True))
        for number in seen.nonzero().flatten().tolist()
    ]


def all_targets(samples: Samples) -> list[Target]:
    """Return every annotated object that is no crowd, whether it is found or not."""
    return [
        Target(row, number, own.boxes[number], int(own.classes[number]))
        for row, own in enumerate(objects_of(samples))
        for number in (~own.crowd).nonzero().flatten().tolist()
    ]


def gone(found: Detections, targets: Sequence[Target], score: float) -> Tensor:
    """Return bool (T,): whether nothing of the target's class is found in its place; row t is an image made for it."""
    return ~_in_place(found, targets, score, same=True)


def renamed(found: Detections, targets: Sequence[Target], score: float) -> Tensor:
    """Return bool (T,): whether something of another class alone is found in the target's place."""
    return gone(found, targets, score) & _in_place(found, targets, score, same=False)


def _in_place(found: Detections, targets: Sequence[Target], score: float, same: bool) -> Tensor:
    if not targets:
        return torch.zeros(0, dtype=torch.bool, device=found.scores.device)
    boxes = torch.stack([target.box for target in targets]).unsqueeze(1)
    classes = torch.tensor([target.category for target in targets], device=found.classes.device).unsqueeze(1)
    near = overlaps(boxes, found.boxes).squeeze(1) >= _IN_ITS_PLACE
    kind = (found.classes == classes) if same else (found.classes != classes)
    return (near & kind & (found.scores >= score)).any(1)


def tally(values: Tensor, targets: Sequence[Target], n: int) -> Tensor:
    """Return float64 (n,): the sum of `values` (T,) over the targets of each sample."""
    rows = torch.tensor([target.row for target in targets], dtype=torch.int64, device=values.device)
    return torch.zeros(n, dtype=torch.float64, device=values.device).index_add(0, rows, values.double())
