"""Where a camera sees each pixel: lens, perspective and placement, chained before the image is sampled once."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from auditkit_plugins.distortions.filters import clamped, sample

__all__ = ["Points", "column", "pixels", "placed", "seen", "through_lens", "tilted"]

Points: TypeAlias = tuple[Tensor, Tensor]
"""How far down and how far right of the middle a pixel is seen, in pixels: float32 (N, H, W) each, or (1, H, W)."""


def pixels(images: Tensor) -> Points:
    """Return where each pixel of images (N, C, H, W) lies."""
    height, width = images.shape[2:]
    rows = torch.arange(height, dtype=images.dtype, device=images.device).view(1, -1, 1) - (height - 1) / 2
    columns = torch.arange(width, dtype=images.dtype, device=images.device).view(1, 1, -1) - (width - 1) / 2
    return rows.expand(1, height, width), columns.expand(1, height, width)


def seen(images: Tensor, points: Points) -> Tensor:
    """Return images (N, C, H, W) as seen at these points, bilinearly, the edge repeated outside."""
    height, width = images.shape[2:]
    shape = (len(images), height, width)
    rows, columns = points[0] + (height - 1) / 2, points[1] + (width - 1) / 2
    return sample(images, rows.expand(shape), columns.expand(shape), clamped).clamp(0, 1)


def through_lens(points: Points, bend: Tensor) -> Points:
    """Bend straight lines: the corner is seen `bend` (N,) times its distance further out (negative: further in).

    The displacement grows with the cube of the distance from the middle: a barrel, or if negative a pincushion.
    """
    down, right = points
    square = down.square() + right.square()
    factor = 1 + column(bend, down) * (square / square.amax((1, 2), keepdim=True).clamp_min(1))
    return down * factor, right * factor


def tilted(points: Points, down_tilt: Tensor, right_tilt: Tensor) -> Points:
    """Tilt the plane of the image: the scale at an edge differs by a share of `down_tilt` or `right_tilt` (N,)."""
    down, right = points
    lower = down / down.amax((1, 2), keepdim=True).clamp_min(0.5)
    outer = right / right.amax((1, 2), keepdim=True).clamp_min(0.5)
    depth = 1 + column(down_tilt, down) * lower + column(right_tilt, right) * outer
    return down / depth, right / depth


def placed(points: Points, turn: Tensor, down_shift: Tensor, right_shift: Tensor, factor: Tensor) -> Points:
    """Turn the image counter-clockwise by `turn` (N,) radians, enlarge it `factor` times, and move it by pixels."""
    down = (points[0] - column(down_shift, points[0])) / column(factor, points[0])
    right = (points[1] - column(right_shift, points[1])) / column(factor, points[1])
    # The functions of float32 may differ in the last bit between a lone value and one of many.
    sine, cosine = column(turn.double().sin(), down), column(turn.double().cos(), down)
    return right * sine + down * cosine, right * cosine - down * sine


def column(values: Tensor, like: Tensor) -> Tensor:
    """Return values (N,) as they are multiplied with what has one row an image, such as `like`."""
    return values.to(like.dtype).view(-1, *(1,) * (like.dim() - 1))
