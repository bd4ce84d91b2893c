"""Boxes to be drawn on a picture: what a detector reports, and what it no longer does."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from auditkit.check import Mark
from auditkit.objects.boxes import overlaps
from auditkit.objects.detections import Detections
from auditkit.objects.judging import FOUND_OVERLAP
from auditkit.samples import Objects

__all__ = ["mark", "marks_of"]


def mark(box: Tensor, text: str, tone: str) -> Mark:
    """Return a mark around a box (4,), left, top, right, bottom as shares of the image; for the tones see `Mark`."""
    left, top, right, bottom = box.tolist()
    return Mark(left, top, right, bottom, text, tone)  # type: ignore[arg-type]


def marks_of(
    found: Detections,
    row: int,
    objects: Objects,
    score: float,
    class_name: Callable[[int], str],
    lost: Tensor | None = None,
) -> tuple[Mark, ...]:
    """Return the marks of one image: detections at least as sure as `score`, and the objects that are `lost`.

    A detection counts as found where an object of its class lies in its place, else as wrong. `lost` (K,) is true for
    the objects to be marked as such.
    """
    marks = []
    for box, sure, category in zip(
        found.boxes[row], found.scores[row].tolist(), found.classes[row].tolist(), strict=True
    ):
        if sure < score:
            continue
        near = overlaps(objects.boxes, box.unsqueeze(0)).squeeze(1) >= FOUND_OVERLAP
        right = bool((near & (objects.classes == category)).any())
        marks.append(mark(box, f"{class_name(category)} {sure:.0%}", "found" if right else "wrong"))
    for at in lost.nonzero().flatten().tolist() if lost is not None else ():
        marks.append(mark(objects.boxes[at], class_name(int(objects.classes[at])), "lost"))
    return tuple(marks)
