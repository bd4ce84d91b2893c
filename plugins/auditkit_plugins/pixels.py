"""Images with one pixel changed."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["PIXEL_MARKS", "corner_colours", "with_pixel"]

PIXEL_MARKS = ("row", "column")
"""What is said of a changed pixel; its colour can be seen in the attacked image."""


def with_pixel(images: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """Return images (N, P, C, H, W), each with one pixel changed, and where that lies: row and column (N, P, 2).

    `candidates` (N, P, 2 + C): row and column as shares of the image in [0, 1], and a colour in [0, 1].
    """
    n, channels, height, width = images.shape
    row = (candidates[..., 0] * height).long().clamp(0, height - 1)
    column = (candidates[..., 1] * width).long().clamp(0, width - 1)
    colours = candidates[..., 2:]
    at = (row * width + column).unsqueeze(2).unsqueeze(3).expand(-1, -1, channels, -1)
    flat = images.flatten(2).unsqueeze(1).expand(-1, candidates.shape[1], -1, -1)
    changed = flat.scatter(3, at, colours.unsqueeze(3)).view(n, -1, channels, height, width)
    return changed, torch.stack([row, column], 2).to(colours.dtype)


def corner_colours(images: Tensor) -> Tensor:
    """Return (2**C, C): the most extreme colours, every channel empty or full."""
    channels = images.shape[1]
    codes = torch.arange(2**channels, device=images.device).unsqueeze(1)
    bits = codes >> torch.arange(channels, device=images.device)
    return (bits & 1).to(images.dtype)
