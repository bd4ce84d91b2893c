"""Finds the usual mistakes of feeding a detector: another range, or another order of channels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from torch import Tensor

from auditkit.errors import ExecutionError
from auditkit.models.loaded import Loaded
from auditkit.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from auditkit.objects.detector import Detector
from auditkit.objects.judging import match_objects, objects_of
from auditkit.precision import average_precision
from auditkit.preflight.diagnosis import info, warning
from auditkit.preflight.options import changed_aspects, in_words, left_out, option_line
from auditkit.result import NoteRecord
from auditkit.samples.base import Samples

__all__ = ["check_classes", "preflight_detector"]

_IMAGES = 32
_OVERLAP = 0.5
_COLOURS = 3
# Of average precision: what another way of feeding must gain before it is worth a word.
_GAIN = 0.05
_ORDERS: tuple[Literal["rgb", "bgr"], ...] = ("rgb", "bgr")


def check_classes(samples: Samples, detector: Detector, label_offset: int = 0) -> None:
    """Check that every annotated object is of a class that the detector knows.

    Raises:
        ExecutionError: one is not; the message names an image.
    """
    classes = detector.info.classes
    for name, objects in zip(samples.ids, objects_of(samples), strict=True):
        if len(objects) and int(objects.classes.max()) >= classes:
            raise ExecutionError(
                f"image {name} has an object of class {int(objects.classes.max())}, but {detector.info.name} knows "
                f"{classes} classes, 0 to {classes - 1}; see --label-offset ({label_offset} now) and --class-names"
            )


def preflight_detector(
    loaded: Loaded, steps: Preprocessing, detector: Detector, samples: Samples
) -> tuple[NoteRecord, ...]:
    """Return what is notable about a detector and its images, warnings first.

    Up to 32 images of the first shard are looked at. A way of feeding the network that is not the configured one is
    worth a warning where it finds clearly more.
    """
    notes = [info("model", note).note for note in loaded.notes]
    if detector.no_gradients is not None:
        text = f"There are no gradients: {detector.no_gradients}."
        notes.append(info("gradients", text, "see the skipped checks").note)
    few = samples.take(list(range(min(len(samples), _IMAGES)))).to(detector.device)
    own = _precision(detector, few)
    if own is None:
        text = f"None of the first {len(few)} images has an annotated object."
        return (warning("objects", text, "see --boxes").note, *notes)
    found = [(_precision(_fed(detector, loaded, other), few) or 0.0, other) for other in _others(steps, few.images)]
    best, better = max(found, key=lambda pair: pair[0])
    if best <= own + _GAIN:
        return tuple(notes)
    channels = few.images.shape[1]
    text = (
        f"As configured ({in_words(steps, channels)}) the average precision at an overlap of one half is {own:.1%} on "
        f"{len(few)} images, fed with {in_words(better, channels)} it is {best:.1%}."
    )
    drop = left_out(steps, better)
    parts = [f"use {option_line(better)}"] if option_line(better) else []
    parts += [f"leave out {' and '.join(drop)}"] if drop else []
    aspect = changed_aspects(steps, better)[0]
    return (warning(aspect, text, "; ".join(parts)).note, *notes)


def _others(steps: Preprocessing, images: Tensor) -> Iterator[Preprocessing]:
    """Yield the other usual ways of feeding a network."""
    in_colour = images.shape[1] == _COLOURS
    plain = replace(steps, mean=None, std=None)
    ways = [replace(plain, input_range=span) for span in ((0.0, 1.0), (0.0, 255.0), (-1.0, 1.0))]
    if in_colour:
        ways.append(replace(plain, input_range=(0.0, 1.0), mean=IMAGENET_MEAN, std=IMAGENET_STD))
    for way in dict.fromkeys((steps, *ways)):
        for order in _ORDERS if in_colour else _ORDERS[:1]:
            other = replace(way, channel_order=order)
            if other != steps:
                yield other


def _fed(detector: Detector, loaded: Loaded, steps: Preprocessing) -> Detector:
    def deployed(images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        return detector.decoder(loaded.run(steps.inputs(images)), (height, width))

    return replace(detector, deployed=deployed)


def _precision(detector: Detector, samples: Samples) -> float | None:
    """Return the average precision, None where there are no objects; 0 where the detector fails."""
    try:
        found = detector.detect(samples.images)
    except Exception:
        return 0.0
    estimate = average_precision(match_objects(found, objects_of(samples)), len(samples), _OVERLAP)
    return None if estimate is None else estimate.value
