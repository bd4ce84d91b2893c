"""What an attack is told when rows of its state are started."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from auditkit.streams import Streams

__all__ = ["Origin"]


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
    warm: Tensor
    """bool (N,): whether `points` comes from a larger budget."""
    rng: Streams
    """A random stream a row."""
