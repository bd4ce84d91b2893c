"""Which detections found which objects: COCO's greedy matching, done by pycocotools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools.cocoeval import COCOeval

from auditkit.precision import IOU_THRESHOLDS, Matches

__all__ = ["Annotated", "Found", "match"]

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Found:
    """The detections of one image."""

    boxes: npt.NDArray[np.floating[Any]]
    """Left, top, right and bottom (D, 4), in shares of the image's width and height."""
    scores: npt.NDArray[np.floating[Any]]
    """How sure the detector is of each (D,)."""
    categories: Integers
    """The category of each (D,)."""


@dataclass(frozen=True)
class Annotated:
    """The objects of one image."""

    boxes: npt.NDArray[np.floating[Any]]
    """Left, top, right and bottom (G, 4), in shares of the image's width and height."""
    categories: Integers
    """The category of each (G,)."""
    crowd: Flags
    """Whether each box holds a crowd (G,): detections inside it count neither for nor against."""
    size: tuple[int, int]
    """Height and width of the image in pixels."""


def match(found: Sequence[Found], annotated: Sequence[Annotated], images: Sequence[int], most: int = 100) -> Matches:
    """Match detections to objects, one image and category at a time, the best score first.

    The three sequences have one entry for each time an image was looked at; `images[i]` is the row of the image, and
    may repeat. Of each category only the `most` best detections of an image count.

    Raises:
        ValueError: the sequences differ in length.
    """
    if not len(found) == len(annotated) == len(images):
        raise ValueError(
            "matching needs detections, objects and a row for each image, "
            f"not {len(found)}, {len(annotated)} and {len(images)} of them"
        )
    evaluator = COCOeval(iouType="bbox")
    evaluator.params.iouThrs = IOU_THRESHOLDS
    evaluator.params.maxDets = [most]
    parts = [_match_image(evaluator, *image, most) for image in zip(found, annotated, strict=True)]
    nothing = np.empty((0, len(IOU_THRESHOLDS)), dtype=np.bool_)
    kept = [part.kept for part in parts]
    real = [objects.categories[~objects.crowd] for objects in annotated]
    return Matches(
        image=np.repeat(np.asarray(images, dtype=np.int64), [len(each) for each in kept]),
        category=_joined([each.categories[order] for each, order in zip(found, kept, strict=True)], np.int64),
        score=_joined([each.scores[order] for each, order in zip(found, kept, strict=True)], np.float32),
        hit=np.concatenate([nothing, *(part.hit for part in parts)]),
        ignored=np.concatenate([nothing, *(part.ignored for part in parts)]),
        object_image=np.repeat(np.asarray(images, dtype=np.int64), [len(each) for each in real]),
        object_category=_joined(real, np.int64),
    )


class _Part(NamedTuple):
    """The detections of one image that count, and how they fared."""

    kept: Integers  # (D',) which of the detections, category by category, the best score first
    hit: Flags  # (D', T)
    ignored: Flags  # (D', T)


def _joined(arrays: list[npt.NDArray[Any]], kind: type[np.generic]) -> npt.NDArray[Any]:
    return np.concatenate([np.empty(0, kind), *arrays]).astype(kind)


def _match_image(evaluator: COCOeval, found: Found, annotated: Annotated, most: int) -> _Part:
    """Match the detections of one image to its objects."""
    scores = found.scores.astype(np.float32)
    best_first = np.argsort(-scores, kind="stable")
    groups = [best_first[found.categories[best_first] == each][:most] for each in np.unique(found.categories)]
    kept = np.concatenate([np.empty(0, np.int64), *groups])
    hit = np.zeros((len(kept), len(IOU_THRESHOLDS)), dtype=np.bool_)
    ignored = np.zeros_like(hit)
    seen, true = _in_pixels(found.boxes, annotated.size), _in_pixels(annotated.boxes, annotated.size)
    start = 0
    for group in groups:
        objects = np.flatnonzero(annotated.categories == found.categories[group[0]])
        if objects.size:
            rows = slice(start, start + len(group))
            hit[rows], ignored[rows] = _match_category(
                evaluator, seen[group], scores[group], true[objects], annotated.crowd[objects]
            )
        start += len(group)
    return _Part(kept, hit, ignored)


def _in_pixels(boxes: npt.NDArray[np.floating[Any]], size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return left, top, width and height in pixels, which is how COCO has boxes."""
    height, width = size
    corners = boxes.reshape(-1, 4).astype(np.float64) * (width, height, width, height)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _match_category(
    evaluator: COCOeval,
    seen: npt.NDArray[np.float64],
    scores: npt.NDArray[np.float32],
    true: npt.NDArray[np.float64],
    crowd: Flags,
) -> tuple[Flags, Flags]:
    """Return which detections (D,), best first, hit an object and which are ignored, at each threshold (D, 10).

    The evaluator reads its annotations from the tables `_dts` and `_gts`. Usually `evaluate` fills them from the files
    of a data set, and prints; filled here, they hold one image and one category at a time.
    """
    # An id of 0 would read as no match.
    detections = [
        {"id": 1 + row, "bbox": box, "area": box[2] * box[3], "score": score}
        for row, (box, score) in enumerate(zip(seen.tolist(), scores.tolist(), strict=True))
    ]
    evaluator._gts[0, 0] = [
        {"id": 1 + row, "bbox": box, "area": box[2] * box[3], "iscrowd": int(many), "ignore": int(many)}
        for row, (box, many) in enumerate(zip(true.tolist(), crowd.tolist(), strict=True))
    ]
    evaluator._dts[0, 0] = detections
    overlaps = evaluator.computeIoU(0, 0)
    # A detection that reaches no threshold takes nothing from the others; most do not, and the matching is slow.
    near = (overlaps >= IOU_THRESHOLDS[0]).any(axis=1)
    evaluator._dts[0, 0] = [each for each, reaches in zip(detections, near, strict=True) if reaches]
    evaluator.ious[0, 0] = overlaps[near]
    result = evaluator.evaluateImg(0, 0, evaluator.params.areaRng[0], len(detections))
    hit = np.zeros((len(detections), len(IOU_THRESHOLDS)), dtype=np.bool_)
    ignored = np.zeros_like(hit)
    ignored[near] = result["dtIgnore"].T
    hit[near] = (result["dtMatches"].T > 0) & ~ignored[near]
    return hit, ignored
