"""Rectangles: how much two of them overlap."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["areas", "overlaps"]


def areas(boxes: Tensor) -> Tensor:
    """Return (...,): the areas of boxes (..., 4), left, top, right, bottom; 0 for one that is turned inside out."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp_min(0)
    return sides[..., 0] * sides[..., 1]


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Return (..., A, B): intersection over union of each of (..., A, 4) with each of (..., B, 4)."""
    left, top, right, bottom = first.unsqueeze(-2).unbind(-1)
    other_left, other_top, other_right, other_bottom = second.unsqueeze(-3).unbind(-1)
    wide = (torch.minimum(right, other_right) - torch.maximum(left, other_left)).clamp_min(0)
    high = (torch.minimum(bottom, other_bottom) - torch.maximum(top, other_top)).clamp_min(0)
    common = wide * high
    union = areas(first)[..., :, None] + areas(second)[..., None, :] - common
    return common / union.clamp_min(torch.finfo(common.dtype).tiny)
