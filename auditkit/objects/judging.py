"""How detections fare against the annotated objects: which objects are found, and what precision is made of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from auditkit.artifacts import Artifact
from auditkit.errors import ExecutionError, UsageError
from auditkit.objects.boxes import overlaps
from auditkit.objects.detections import Detections
from auditkit.objects.detector import Detector
from auditkit.precision import Matches
from auditkit.samples import Objects, Samples

__all__ = ["CLEAN_DETECTIONS", "FOUND_OVERLAP", "found_objects", "match_objects", "objects_of"]

FOUND_OVERLAP = 0.5
"""By how much (intersection over union) a detection overlaps an object that it has found."""


def _detected(detector: Detector, samples: Samples) -> Detections:
    return detector.detect(samples.images)


CLEAN_DETECTIONS: Artifact[Detections] = Artifact("clean.detections", _detected)
"""What the deployed detector reports in the unperturbed images."""


def objects_of(samples: Samples) -> tuple[Objects, ...]:
    """Return the annotated objects of each sample.

    Raises:
        ExecutionError: the samples are those of a classifier.
    """
    if samples.objects is None:
        raise ExecutionError("the samples say nothing about objects; a detector needs boxes (--boxes)")
    return samples.objects


def found_objects(found: Detections, objects: Sequence[Objects], score: float) -> list[Tensor]:
    """Return bool (K,) for each image: the objects of which a detection of their class lies in their place.

    It is at least as sure as `score`, and overlaps the object's box by half (intersection over union). A crowd is no
    object that could be found.
    """
    said = []
    for row, each in enumerate(objects):
        sure = found.scores[row] >= score
        same = found.classes[row].unsqueeze(0) == each.classes.unsqueeze(1)
        near = overlaps(each.boxes, found.boxes[row]) >= FOUND_OVERLAP
        said.append((near & same & sure).any(1) & ~each.crowd)
    return said


def match_objects(found: Detections, objects: Sequence[Objects], images: Sequence[int] | None = None) -> Matches:
    """Return how the detections on N images fared: COCO's matching, at ten overlaps.

    `images` (N,) says which image each row is; None: each is another. The matching runs on the CPU.

    Raises:
        UsageError: pycocotools, which does the matching, is not installed.
    """
    try:
        from auditkit.objects.matching import Annotated, Found, match
    except ImportError as error:
        raise UsageError(
            f"detectors are judged with pycocotools ({error}): pip install 'auditkit[detectors]'"
        ) from None

    boxes, scores, classes = (each.cpu().numpy() for each in (found.boxes, found.scores, found.classes))
    used = scores > 0
    return match(
        [Found(boxes[row][use], scores[row][use], classes[row][use]) for row, use in enumerate(used)],
        [
            Annotated(each.boxes.cpu().numpy(), each.classes.cpu().numpy(), each.crowd.cpu().numpy(), each.size)
            for each in objects
        ],
        list(range(len(objects))) if images is None else list(images),
    )
