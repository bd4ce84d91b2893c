"""The words that depend on what a model does: those of classifiers, and those of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from auditkit.result import Result

__all__ = ["TaskWords", "task_words"]


@dataclass(frozen=True)
class TaskWords:
    """What the outputs call a task, and what attacks take from a model that does it."""

    hub_task: str
    """What model cards and bills of materials call the task."""
    hub_name: str
    model: str
    kept: str
    """The metric of what an attack leaves; a stronger attack leaves less."""
    kept_title: str
    kept_words: str
    """The same within a sentence."""
    quality: str
    """What it is that an attack leaves a part of."""
    term: str
    """Where the glossary explains `kept`."""
    key_metrics: tuple[str, ...]
    """The first of these that a check has stands for it in a list of checks."""
    bound: str
    """What a reader must know about `kept`, as a sentence without its stop."""


_WORDS: Mapping[str, TaskWords] = MappingProxyType(
    {
        "classification": TaskWords(
            hub_task="image-classification",
            hub_name="Image Classification",
            model="classifier",
            kept="robust_accuracy",
            kept_title="Robust accuracy",
            kept_words="robust accuracy",
            quality="accuracy",
            term="robust-accuracy",
            key_metrics=("robust_accuracy",),
            bound="Robust accuracy is an upper bound: a stronger attack can only lower it",
        ),
        "detection": TaskWords(
            hub_task="object-detection",
            hub_name="Object Detection",
            model="detector",
            kept="ap50",
            kept_title="AP50",
            kept_words="AP50",
            quality="average precision",
            term="average-precision",
            key_metrics=("ap50", "vanish_rate"),
            bound="AP50 under attack is an upper bound: a stronger attack can only lower it",
        ),
    }
)


def task_words(result: Result) -> TaskWords:
    """Return the words for what the audited model does."""
    return _WORDS[result.model.task]
