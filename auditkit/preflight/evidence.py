"""When a difference between two sets of answers to the same images is more than luck."""

from __future__ import annotations

import torch
from scipy import special
from torch import Tensor

from auditkit.stats import proportion

__all__ = [
    "beats_chance",
    "chance_agreement",
    "clearly_better",
    "could_be_better",
    "knows_classes",
    "share",
]

_SIGNIFICANCE = 0.001
_GAIN = 0.05
# The fewest one-sided changes that reach the significance: 2 * 0.5 ** 11 < 0.001.
_FEWEST_CHANGES = 11
# Of many classes dealt at random, six or more meet their own label with a probability of 0.0006.
_CLASSES = 6


def could_be_better(correct: Tensor) -> bool:
    """Return whether other answers than those right at `correct`, bool (N,), could be clearly better."""
    wrong = int((~correct).sum())
    return wrong >= max(_FEWEST_CHANGES, _GAIN * len(correct))


def clearly_better(correct: Tensor, other: Tensor) -> bool:
    """Return whether `other` (bool, N) is right 5 points more often, and surely so (McNemar's exact test)."""
    gained = int((other & ~correct).sum())
    lost = int((correct & ~other).sum())
    if gained - lost < _GAIN * len(correct) or gained == 0:
        return False
    return 2 * float(special.bdtr(lost, gained + lost, 0.5)) < _SIGNIFICANCE


def chance_agreement(predicted: Tensor, labels: Tensor) -> float:
    """Return how often the same answers (N,) would be right were they dealt to the images at random."""
    classes = int(torch.maximum(predicted, labels).max()) + 1
    answers = torch.bincount(predicted.clamp_min(0), minlength=classes).double()
    truths = torch.bincount(labels, minlength=classes).double()
    return float((answers * truths).sum()) / len(labels) ** 2


def beats_chance(predicted: Tensor, labels: Tensor) -> bool:
    """Return whether the answers (N,) know something of the labels; one answer to all images never does."""
    right = int((predicted == labels).sum())
    return proportion(right, len(labels)).low > chance_agreement(predicted, labels)


def knows_classes(predicted: Tensor, labels: Tensor) -> bool:
    """Return whether several classes (all, where there are few) mostly get the answer (N,) that is right.

    Images of one class are no independent witnesses: labels in a wrong order, or a network fed wrongly, can bring
    whole classes together with their answers by luck. That many classes at once is rare (one is to be expected).
    """
    present = labels.unique()  # type: ignore[no-untyped-call]
    known = sum(int(predicted[labels == label].mode().values) == label for label in present.tolist())
    return len(present) > 1 and known >= min(len(present), _CLASSES)


def share(right: int, n: int) -> str:
    """Return `92.5% of 200 images`."""
    return f"{right / n:.1%} of {n} images"
