"""Looks for a clearly better way of feeding the network, or of counting classes, than the one configured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from auditkit.models.base import Model
from auditkit.models.loaded import Loaded
from auditkit.models.preprocess import Preprocessing
from auditkit.preflight.conventions import Layout, candidates
from auditkit.preflight.evidence import beats_chance, clearly_better, could_be_better, knows_classes
from auditkit.preflight.options import changed_aspects
from auditkit.preflight.trial import FAILED, predictions

__all__ = ["Better", "better_convention"]

_SCREENING = 32
_FINALISTS = 4
_PROBE = 2
# Differences of this share of the images say nothing about which of two ways is meant.
_EQUALLY_GOOD = 0.01


@dataclass(frozen=True)
class Better:
    """Another way to put the network and the images together, and what it gains."""

    steps: Preprocessing
    label_offset: int
    right_before: int
    right_after: int
    n: int


@dataclass(frozen=True)
class _Way:
    steps: Preprocessing
    label_offset: int
    changes: int
    predicted: Tensor

    def right(self, labels: Tensor) -> Tensor:
        return self.predicted == labels[: len(self.predicted)] + self.label_offset


def better_convention(
    loaded: Loaded, steps: Preprocessing, model: Model, images: Tensor, labels: Tensor, predicted: Tensor
) -> Better | None:
    """Return the way that is right clearly more often than the configured one; None where there is none.

    All candidates are screened on a few images, the best few then compared on all of them.

    Args:
        loaded: The raw network.
        steps: The configured way.
        model: The network as it was tried out.
        images: (N, C, H, W) in [0, 1], in an order that mixes the classes.
        labels: int64 (N,).
        predicted: int64 (N,), the configured way's answers.
    """
    correct = predicted == labels
    if not could_be_better(correct):
        return None
    offsets = _offsets(labels, model.info.classes)
    few = images[:_SCREENING]
    screened = [
        way
        for other, answers in _answers(loaded, steps, model, few, images, predicted)
        for way in _ways(steps, other, answers, offsets)
    ]
    as_configured = int(correct[:_SCREENING].sum())
    ranked = sorted(screened, key=lambda way: (-int(way.right(labels).sum()), way.changes))
    promising = [way for way in ranked[:_FINALISTS] if int(way.right(labels).sum()) >= as_configured]
    finalists = [_on_all(way, loaded, steps, model, images, predicted) for way in promising]
    clear = [way for way in finalists if _is_clear(way, correct, labels)]
    return _best(clear, correct, labels) if clear else None


def _offsets(labels: Tensor, classes: int) -> tuple[int, ...]:
    lowest, highest = int(labels.min()), int(labels.max())
    return tuple(offset for offset in (0, 1, -1) if lowest + offset >= 0 and highest + offset < classes)


def _answers(
    loaded: Loaded, steps: Preprocessing, model: Model, few: Tensor, images: Tensor, predicted: Tensor
) -> Iterator[tuple[Preprocessing, Tensor]]:
    yield steps, predicted[: len(few)]
    for other in candidates(steps, images, _layouts(loaded, steps, model, few[:_PROBE])):
        yield other, predictions(loaded, model, other, few)


def _layouts(loaded: Loaded, steps: Preprocessing, model: Model, images: Tensor) -> tuple[Layout, ...]:
    """Return the layouts that run: nearly always the configured one alone."""
    other: Layout = "nchw" if steps.layout == "nhwc" else "nhwc"
    runs = predictions(loaded, model, replace(steps, layout=other), images)
    return (steps.layout,) if bool((runs == FAILED).any()) else (steps.layout, other)


def _ways(configured: Preprocessing, steps: Preprocessing, answers: Tensor, offsets: tuple[int, ...]) -> Iterator[_Way]:
    for offset in offsets:
        changes = len(changed_aspects(configured, steps)) + (offset != 0)
        if changes:
            yield _Way(steps, offset, changes, answers)


def _on_all(way: _Way, loaded: Loaded, steps: Preprocessing, model: Model, images: Tensor, predicted: Tensor) -> _Way:
    if way.steps == steps:
        return replace(way, predicted=predicted)
    rest = predictions(loaded, model, way.steps, images[len(way.predicted) :])
    return replace(way, predicted=torch.cat([way.predicted, rest]))


def _is_clear(way: _Way, correct: Tensor, labels: Tensor) -> bool:
    truth = labels + way.label_offset
    return (
        clearly_better(correct, way.right(labels))
        and beats_chance(way.predicted, truth)
        and knows_classes(way.predicted, truth)
    )


def _best(ways: list[_Way], correct: Tensor, labels: Tensor) -> Better:
    n = len(labels)
    most = max(int(way.right(labels).sum()) for way in ways)
    equal = [way for way in ways if int(way.right(labels).sum()) >= most - _EQUALLY_GOOD * n]
    best = min(equal, key=lambda way: (way.changes, -int(way.right(labels).sum())))
    right = int(best.right(labels).sum())
    return Better(best.steps, best.label_offset, int(correct.sum()), right, n)
