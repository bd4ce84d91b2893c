"""The raw network under other preprocessing than the one configured."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from auditkit.models.base import Model
from auditkit.models.loaded import Loaded
from auditkit.models.preprocess import Preprocessing

__all__ = ["FAILED", "predictions", "scores", "with_steps"]

FAILED = -1
"""The prediction that stands for none."""


def with_steps(loaded: Loaded, model: Model, steps: Preprocessing) -> Model:
    """Return `model` with other preprocessing in front of the same network, batched in the same way."""
    return replace(model, deployed=lambda images: steps.logits(loaded.run(steps.inputs(images))))


def scores(loaded: Loaded, model: Model, steps: Preprocessing, images: Tensor) -> Tensor:
    """Return the network's outputs (N, K) as they are, for images (N, C, H, W) in [0, 1].

    Raises:
        ExecutionError: the outputs are not one row an image, or NaN.
    """
    return with_steps(loaded, model, replace(steps, outputs="logits")).logits(images)


def predictions(loaded: Loaded, model: Model, steps: Preprocessing, images: Tensor) -> Tensor:
    """Return int64 (N,) classes for images (N, C, H, W); `FAILED` everywhere if it does not run."""
    try:
        return scores(loaded, model, steps, images).argmax(1)
    except Exception:
        return torch.full((len(images),), FAILED, device=images.device)
