"""What an attack is told when rows of its state are started."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit.samples import Samples
from auditkit.streams import Streams

__all__ = ["Origin", "object_masks"]


@dataclass(frozen=True)
class Origin:
    """N searches about to start, one row each; a dataclass of tensors like any state."""

    images: Tensor
    """float32 (N, C, H, W): the clean images, in [0, 1]."""
    labels: Tensor
    """int64 (N,)."""
    eps: Tensor
    """float32 (N,): the budgets; infinite for an attack that looks for the nearest success."""
    restart: Tensor
    """int64 (N,): 0 for the first search of this sample at this budget, 1 for the next."""
    logits: Tensor
    """float32 (N, K): what the deployed model says about the clean images."""
    points: Tensor
    """float32 (N, C, H, W): where a search at a larger budget ended, scaled into this one; else the clean image."""
    masks: Tensor
    """bool (N, H, W): true on the object; true everywhere in an image of which nobody said where it is."""
    warm: Tensor
    """bool (N,): whether `points` comes from a larger budget."""
    rng: Streams
    """A random stream a row."""


def object_masks(samples: Samples) -> Tensor:
    """Return bool (N, H, W): the masks of these samples; true everywhere in an image that has none, or an empty one."""
    if samples.masks is not None:
        unknown = ~samples.masks.flatten(1).any(1)
        return samples.masks | unknown.view(-1, 1, 1)
    n, _, height, width = samples.images.shape
    return torch.ones((n, height, width), dtype=torch.bool, device=samples.images.device)
