"""How well the detector finds what was annotated, before anybody attacks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from auditkit import (
    CLEAN_DETECTIONS,
    Context,
    Detector,
    Exhibit,
    Findings,
    Metric,
    Samples,
    Spec,
    found_objects,
    image_panel,
    mark,
    marks_of,
    match_objects,
    objects_of,
)

__all__ = ["Precision"]

_EXHIBITS = 8


@dataclass(frozen=True)
class Precision:
    """Count what the detector finds, at the overlaps of COCO."""

    spec: ClassVar[Spec] = Spec(
        id="samples.precision",
        title="The detector finds the annotated objects",
        why=(
            "What attacks take can only be told from what was there. Average precision asks both whether objects are "
            "found and whether what is reported is there; it is the mean over the classes that occur, so a class with "
            "one object weighs as much as one with hundreds. Look at the classes before you trust the mean."
        ),
        metrics=(
            Metric("ap50", "clean", "Average precision at an overlap of 0.5", "precision", at=0.5),
            Metric("ap75", "clean", "Average precision at an overlap of 0.75", "precision", at=0.75),
            Metric("ap", "clean", "Average precision, mean over the overlaps 0.5 to 0.95", "precision"),
            Metric("found_rate", "found", "Annotated objects that are found", "ratio", against="objects"),
        ),
        by_class=("ap50",),
        references=(
            "Lin et al. 2014 (COCO), https://arxiv.org/abs/1405.0312",
            "Everingham et al. 2010 (average precision), https://doi.org/10.1007/s11263-009-0275-4",
        ),
        presets={"smoke": {}, "standard": {}, "full": {}},
    )

    def run(self, detector: Detector, samples: Samples, ctx: Context) -> Findings:
        """Ask the deployed detector once about every image."""
        found, objects = ctx.shelf.get(CLEAN_DETECTIONS), objects_of(samples)
        seen = found_objects(found, objects, detector.score)
        single = [~each.crowd for each in objects]
        reported = (found.scores >= detector.score).sum(1).cpu().numpy()
        ctx.progress(len(samples))
        return Findings(
            columns={
                "objects": np.array([int(each.sum()) for each in single], dtype=np.int64),
                "found": np.array([int(each.sum()) for each in seen], dtype=np.int64),
                "reported": reported.astype(np.int64),
            },
            exhibits=_exhibits(detector, samples, seen, ctx),
            forwards=np.ones(len(samples), dtype=np.int64),
            backwards=np.zeros(len(samples), dtype=np.int64),
            matches={"clean": match_objects(found, objects)},
        )


def _exhibits(detector: Detector, samples: Samples, seen: Sequence[torch.Tensor], ctx: Context) -> tuple[Exhibit, ...]:
    """Show the images in which most objects are missed, as annotated and as the detector sees them."""
    found, objects = ctx.shelf.get(CLEAN_DETECTIONS), objects_of(samples)
    missed = [int((~hit & ~each.crowd).sum()) for hit, each in zip(seen, objects, strict=True)]
    ranked = sorted(range(len(samples)), key=lambda row: (-missed[row], samples.ids[row]))
    exhibits = []
    for row in [row for row in ranked if missed[row]][:_EXHIBITS]:
        own, lost = objects[row], ~seen[row] & ~objects[row].crowd
        marks = marks_of(found, row, own, detector.score, ctx.class_name, lost)
        caption = f"{missed[row]} of {int((~own.crowd).sum())} annotated objects are missed"
        single = (~own.crowd).nonzero().flatten().tolist()
        annotated = tuple(mark(own.boxes[at], ctx.class_name(int(own.classes[at])), "object") for at in single)
        panels = (
            image_panel("as annotated", samples.images[row], annotated),
            image_panel("as the detector sees it", samples.images[row], marks),
        )
        exhibits.append(Exhibit(samples.ids[row], caption, float(missed[row]), panels))
    return tuple(exhibits)
