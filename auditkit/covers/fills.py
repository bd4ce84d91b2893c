"""What a window is filled with when it covers a part of an image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor

from auditkit.covers.windows import Windows

__all__ = ["FILLS", "Fill", "Filling", "filling"]

Fill = Literal["mean", "grey", "blur", "black"]
"""The name of a fill."""

Filling = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) in [0, 1] to what shows inside a window, of a shape that broadcasts to theirs."""

FILLS: tuple[Fill, ...] = get_args(Fill)

# A float32 in [0, 1] is a whole number of these, but for what lies below them.
_FRACTIONS = 2.0**40


def filling(fill: Fill, windows: Windows) -> Filling:
    """Return the fill of this name for these windows; an image's own fill does not depend on other images."""
    return partial(_FILLINGS[fill], windows)


def _mean(windows: Windows, images: Tensor) -> Tensor:
    """Return (N, C, 1, 1): the mean of each channel of each image."""
    # Whole numbers have the same sum in any order, so it does not depend on how a backend splits the work.
    total = (images.double() * _FRACTIONS).long().sum((2, 3), keepdim=True).double()
    return (total / (_FRACTIONS * images.shape[2] * images.shape[3])).to(images.dtype)


def _constant(value: float, windows: Windows, images: Tensor) -> Tensor:
    return images.new_full((1, 1, 1, 1), value)


def _blur(windows: Windows, images: Tensor) -> Tensor:
    """Return (N, C, H, W): the images after a Gaussian blur whose deviation is the window's own size."""
    down = _gaussian(images.shape[2], windows.height).to(images)
    across = _gaussian(images.shape[3], windows.width).to(images)
    # One image after the other: products of matrices may round differently for a different number of rows.
    return torch.stack([down @ image @ across.T for image in images]) if len(images) else images


def _gaussian(side: int, deviation: int) -> Tensor:
    """Return float64 (side, side): what each pixel of an axis gets of every other; pixels outside have no weight."""
    at = torch.arange(side, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((at[:, None] - at) / deviation) ** 2)
    return weights / weights.sum(1, keepdim=True)


_FILLINGS: Mapping[Fill, Callable[[Windows, Tensor], Tensor]] = MappingProxyType(
    {"mean": _mean, "grey": partial(_constant, 0.5), "blur": _blur, "black": partial(_constant, 0.0)}
)
