"""A threshold that keeps its promise: split-conformal calibration on clean images that nothing else was fitted on."""

from __future__ import annotations

import math

import torch
from scipy import special
from torch import Tensor

from auditkit.errors import ExecutionError

__all__ = ["CALIBRATION_CONFIDENCE", "conformal_threshold", "images_needed"]

CALIBRATION_CONFIDENCE = 0.9
"""How often a calibration keeps its promise, where it has images enough for that."""


def images_needed(false_alarms: float) -> int:
    """Return the least number of clean images from which so small a share of false alarms can be promised."""
    return math.ceil(1 / false_alarms - 1e-9) - 1


def conformal_threshold(scores: Tensor, false_alarms: float) -> float:
    """Return a threshold that at most the share `false_alarms` of new clean images exceeds.

    `scores` (N,) are those of clean images, exchangeable with the new ones and not used for anything else. The k-th
    smallest with k = ceil((N + 1) (1 - false_alarms)) keeps the promise on the average over calibrations (Vovk et al.
    2005), which half of them break. Therefore k is the smallest with which `CALIBRATION_CONFIDENCE` of all calibrations
    keep it, the share beyond the k-th being Beta(N + 1 - k, k) (Vovk 2012, https://arxiv.org/abs/1209.2673); with so
    few images that none is, it is N.

    Raises:
        ExecutionError: there are too few images to promise so few false alarms even on the average.
    """
    n, needed = len(scores), images_needed(false_alarms)
    if n < needed:
        raise ExecutionError(
            f"a promise of at most {false_alarms:.2%} false alarms needs {needed} clean images to calibrate on, got {n}"
        )
    # Rounded down by what a product of floats may have too much.
    rank = math.ceil((n + 1) * (1 - false_alarms) - 1e-9)
    while rank < n and special.betainc(n + 1 - rank, rank, false_alarms) < CALIBRATION_CONFIDENCE:
        rank += 1
    return float(torch.sort(scores.double()).values[rank - 1])
