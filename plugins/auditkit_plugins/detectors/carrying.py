"""Boxes carried along with what is in them, where a distortion moves an image's pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit import Objects, areas

__all__ = ["Carried", "Sources", "carry", "identity", "stay", "traced"]

_LEAST_IN_VIEW = 0.5
# What rounding may take from an object of which just half is in view.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Sources:
    """Where each pixel of N distorted images comes from, as shares of the image's sides; beyond [0, 1]: from outside.

    Attributes:
        down: float (N, H, W), or (1, H, W) where it is the same in all.
        right: of the same shape.
    """

    down: Tensor
    right: Tensor


@dataclass(frozen=True)
class Carried:
    """The objects of one image as they lie in its distorted form."""

    objects: Objects
    """Those of which anything is left; one of which less than half is left counts as a crowd: neither for nor
    against."""
    number: Tensor
    """int64 (K',): which of the image's K objects each of them is."""
    in_view: Tensor
    """bool (K,): the objects of the image that are no crowd, and of which at least half is left."""


def identity(images: Tensor) -> Sources:
    """Return the sources of images (N, C, H, W) of which no pixel moved."""
    height, width = images.shape[2:]
    down = (torch.arange(height, dtype=images.dtype, device=images.device) + 0.5) / height
    right = (torch.arange(width, dtype=images.dtype, device=images.device) + 0.5) / width
    return Sources(down.view(1, -1, 1).expand(1, height, width), right.view(1, 1, -1).expand(1, height, width))


def traced(images: Tensor, distort: Callable[[Tensor], Tensor]) -> Sources:
    """Return the mean place that each pixel of distorted images (N, C, H, W) is made of.

    `distort` is a mean of pixels with weights that no colour changes: an image of coordinates then becomes one of mean
    coordinates.
    """
    still = identity(images)
    places = torch.stack([still.down, still.right], 1).expand(len(images), -1, -1, -1)
    return Sources(*distort(places.contiguous()).unbind(1))


def stay(objects: Objects) -> Carried:
    """Return the objects of an image of which no pixel moved."""
    return Carried(objects, torch.arange(len(objects), device=objects.boxes.device), ~objects.crowd)


def carry(objects: Sequence[Objects], sources: Sources) -> list[Carried]:
    """Return the objects of N images where the distortion with these sources puts them.

    The new box is the smallest around all pixels that come from within the old one. How much of an object is left is
    the area that these pixels had in the image as it was, as a share of that of its box.
    """
    return [
        _carry_one(each, *(axis[row if len(axis) > 1 else 0] for axis in (sources.down, sources.right)))
        for row, each in enumerate(objects)
    ]


def _carry_one(objects: Objects, down: Tensor, right: Tensor) -> Carried:
    height, width = down.shape
    left, top, far, low = (edge.view(-1, 1, 1) for edge in objects.boxes.unbind(1))
    inside = (down >= top) & (down < low) & (right >= left) & (right < far)
    rows, columns = inside.any(2), inside.any(1)
    shown = rows.any(1)
    boxes = torch.stack([_first(columns) / width, _first(rows) / height, _last(columns) / width, _last(rows) / height])
    left_over = (inside * _shrinkage(down, right)).double().sum((1, 2)) / areas(objects.boxes).double()
    in_view = shown & (left_over >= _LEAST_IN_VIEW - _ROUNDING) & ~objects.crowd
    number = shown.nonzero().flatten()
    kept = Objects(boxes.T[number], objects.classes[number], ~in_view[number], objects.size)
    return Carried(kept, number, in_view)


def _first(any_pixel: Tensor) -> Tensor:
    """Return float32 (K,): the number of the first that is true of (K, S)."""
    return any_pixel.int().argmax(1).float()


def _last(any_pixel: Tensor) -> Tensor:
    """Return float32 (K,): one more than the number of the last that is true of (K, S)."""
    return any_pixel.shape[1] - any_pixel.flip(1).int().argmax(1).float()


def _shrinkage(down: Tensor, right: Tensor) -> Tensor:
    """Return (H, W): the share of the image as it was that each pixel of the distorted one shows."""
    down_down, down_right = torch.gradient(down)
    right_down, right_right = torch.gradient(right)
    return (down_down * right_right - down_right * right_down).abs()
