"""Looking at distorted images: what the detector still finds of the objects in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from auditkit import (
    CLEAN_DETECTIONS,
    Context,
    Detections,
    Detector,
    Exhibit,
    Matches,
    Objects,
    Samples,
    Shelf,
    found_objects,
    image_panel,
    marks_of,
    match_objects,
    objects_of,
)
from auditkit_plugins.detectors.carrying import Carried, Sources, carry, stay

__all__ = ["Distort", "Look", "Way", "hardest", "look", "pooled"]

Counts: TypeAlias = npt.NDArray[np.int64]

Distort: TypeAlias = Callable[[Tensor, tuple[str, ...]], tuple[Tensor, Sources | None]]
"""Images (N, C, H, W) and their ids to distorted images, and where their pixels come from; None: nothing moved."""


@dataclass(frozen=True)
class Way:
    """One way in which every image is distorted."""

    words: str
    """For captions."""
    strength: float
    """Above 0 and below 1."""
    distort: Distort


@dataclass(frozen=True)
class Look:
    """What the detector says about N images, distorted in one way."""

    found: Detections
    carried: tuple[Carried, ...]
    had: tuple[Tensor, ...]
    """bool (K,) an image: the objects that were found in the image as it is, and are in view."""
    has: tuple[Tensor, ...]
    """bool (K,) an image: those of them that are still found."""

    @property
    def objects(self) -> tuple[Objects, ...]:
        """What is to be found in the distorted images."""
        return tuple(each.objects for each in self.carried)

    @property
    def in_view(self) -> Counts:
        """(N,): how many objects were found before, and are in view."""
        return _counts(self.had)

    @property
    def still(self) -> Counts:
        """(N,): how many of them are still found."""
        return _counts(self.has)

    @property
    def lost(self) -> Counts:
        """(N,): how many of them are not."""
        return self.in_view - self.still


def look(detector: Detector, samples: Samples, distort: Distort, ctx: Context) -> Look:
    """Return what the deployed detector says about the samples as `distort` changes them, batch by batch."""
    objects = objects_of(samples)
    before = found_objects(ctx.shelf.get(CLEAN_DETECTIONS), objects, detector.score)
    found, carried = [detector.detect(samples.images[:0])], []
    for start in range(0, len(samples), ctx.batch):
        ctx.check_time()
        part = slice(start, start + ctx.batch)
        images, sources = distort(samples.images[part], samples.ids[part])
        carried += carry(objects[part], sources) if sources is not None else [stay(each) for each in objects[part]]
        found.append(detector.detect(images))
    together = _joined(found)
    had = [known & each.in_view for known, each in zip(before, carried, strict=True)]
    after = found_objects(together, [each.objects for each in carried], detector.score)
    has = [own & _of_all(each, seen) for own, each, seen in zip(had, carried, after, strict=True)]
    return Look(together, tuple(carried), tuple(had), tuple(has))


def pooled(parts: Sequence[Matches]) -> Matches:
    """Return the matches of several looks at the same images as those of one; of none, an empty one."""
    nothing = match_objects(Detections(*(torch.zeros(0, 1, *more) for more in ((4,), (), ()))), ())
    together = [nothing, *parts]
    return Matches(
        **{each.name: np.concatenate([getattr(part, each.name) for part in together]) for each in fields(Matches)}
    )


def hardest(
    detector: Detector, samples: Samples, ways: Sequence[Way], lost: Counts, most: int, ctx: Context
) -> tuple[Exhibit, ...]:
    """Show the images of which a way takes most objects, `lost` (N, W), by the mildest such way of each."""
    scores = np.where(lost > 0, lost + 1 - np.array([way.strength for way in ways]), 0.0)
    at, best = scores.argmax(1), scores.max(1)
    ranked = sorted(np.flatnonzero(best).tolist(), key=lambda row: (-best[row], samples.ids[row]))[:most]
    return tuple(_exhibit(detector, samples, row, ways[at[row]], float(best[row]), ctx) for row in ranked)


def _exhibit(detector: Detector, samples: Samples, row: int, way: Way, score: float, ctx: Context) -> Exhibit:
    """Show one sample as it is and distorted, with what the detector says to both."""
    one, objects, clean = samples.take([row]), objects_of(samples)[row], ctx.shelf.get(CLEAN_DETECTIONS)
    alone = replace(ctx, shelf=Shelf(detector, one))
    seen = look(detector, one, way.distort, alone)
    image, _ = way.distort(one.images, one.ids)
    (carried,), (had,), (has,) = seen.carried, seen.had, seen.has
    lost = had & ~has
    before = marks_of(clean, row, objects, detector.score, ctx.class_name)
    after = marks_of(seen.found, 0, carried.objects, detector.score, ctx.class_name, lost[carried.number])
    caption = f"{int(lost.sum())} of {int(had.sum())} objects are lost: {way.words}"
    panels = (image_panel("clean", one.images[0], before), image_panel(way.words, image[0], after))
    return Exhibit(samples.ids[row], caption, score, panels)


def _joined(parts: Sequence[Detections]) -> Detections:
    return Detections(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.classes for part in parts]),
    )


def _of_all(carried: Carried, seen: Tensor) -> Tensor:
    """Return bool (K,): what is true of the objects that are left, as something of all the image's objects."""
    everything = torch.zeros_like(carried.in_view)
    everything[carried.number] = seen
    return everything


def _counts(each: Sequence[Tensor]) -> Counts:
    return np.array([int(one.sum()) for one in each], dtype=np.int64)
