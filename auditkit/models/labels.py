"""Networks that answer with the number of a class instead of scores."""

from __future__ import annotations

import torch
from torch import Tensor

from auditkit.errors import ExecutionError

__all__ = ["are_labels", "count_classes", "scores_from_labels"]


def are_labels(answers: Tensor) -> bool:
    """Return whether `answers` (N, ...) are one whole number an image, none of them negative."""
    if answers.dim() == 0 or answers.numel() != len(answers):
        return False
    return bool(((answers >= 0) & (answers == answers.float().round()) & answers.isfinite()).all())


def count_classes(answers: Tensor, name: str) -> int:
    """Return how many classes there are at least, after a network called `name` gave these `answers` (N, ...).

    Raises:
        ExecutionError: they are no labels.
    """
    if not are_labels(answers):
        shape, values = tuple(answers.shape), answers.flatten()[:3].tolist()
        shown = ", ".join(f"{value:g}" for value in values)
        raise ExecutionError(
            f"{name}: with --outputs labels a network returns the number of a class for each image, "
            f"({len(answers)},) or ({len(answers)}, 1) whole numbers; got {shape}, such as {shown}"
        )
    return int(answers.max()) + 1


def scores_from_labels(answers: Tensor, classes: int, name: str) -> Tensor:
    """Return float32 (N, classes): 1 for the class that `answers` (N, ...) name, 0 for the others.

    Raises:
        ExecutionError: they are no labels, or one of them lies beyond `classes`.
    """
    if (seen := count_classes(answers, name)) > classes:
        raise ExecutionError(
            f"{name} answered with class {seen - 1}, and only classes 0 to {classes - 1} are known of so far: "
            "say with --classes how many there are"
        )
    return torch.nn.functional.one_hot(answers.flatten().long(), classes).float()
