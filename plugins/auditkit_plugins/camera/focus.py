"""How sharp a camera sees: blur and lost resolution, of another amount for each image."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from auditkit_plugins.camera.geometry import column
from auditkit_plugins.distortions.filters import clamped

__all__ = ["blurred", "rescaled"]

_CUT = 2.5
_NO_BLUR = 1e-6


def blurred(images: Tensor, sigma: Tensor, widest: float) -> Tensor:
    """Return images (N, C, H, W), each smoothed by a Gaussian of its own `sigma` (N,) in pixels, at most `widest`."""
    reach = math.ceil(_CUT * widest)
    taps = torch.arange(-reach, reach + 1, dtype=torch.float64, device=images.device)
    weights = torch.exp(-0.5 * (taps / sigma.double().clamp_min(_NO_BLUR).unsqueeze(1)).square())
    # One value after the other: a sum over a dimension may depend on the number of rows.
    total = torch.zeros_like(weights[:, 0])
    for tap in range(len(taps)):
        total = total + weights[:, tap]
    for axis in (2, 3):
        size = images.shape[axis]
        places = torch.arange(size, device=images.device)
        smooth = torch.zeros_like(images)
        for tap in range(len(taps)):
            shifted = images.index_select(axis, clamped(places + (tap - reach), size))
            smooth = smooth + shifted * column(weights[:, tap] / total, images)
        images = smooth.clamp(0, 1)
    return images


def rescaled(images: Tensor, left: Tensor, least: float) -> Tensor:
    """Return images (N, C, H, W) shrunk to a share `left` (N,) of their sides and enlarged again.

    `least` is the smallest share in `left`. What shrinks is smoothed before, as a camera's pixels do.
    """
    images = blurred(images, (1 / left.double() - 1) / 2, (1 / least - 1) / 2)
    for axis in (2, 3):
        size = images.shape[axis]
        cells = (size * left.double()).round().clamp(min=1).unsqueeze(1)
        place = (torch.arange(size, dtype=torch.float64, device=images.device) + 0.5) * (cells / size) - 0.5
        cell = place.floor()
        part = _on(axis, (place - cell).to(images.dtype))
        first, second = (
            _between(images, axis, (torch.minimum((cell + more).clamp(min=0), cells - 1) + 0.5) * (size / cells) - 0.5)
            for more in (0, 1)
        )
        images = (first * (1 - part) + second * part).clamp(0, 1)
    return images


def _between(images: Tensor, axis: int, places: Tensor) -> Tensor:
    """Return images (N, C, H, W) at float64 places (N, size) along an axis, linearly."""
    size = images.shape[axis]
    low = places.floor()
    part = _on(axis, (places - low).to(images.dtype))
    first, second = (
        images.gather(axis, _on(axis, clamped(low.long() + more, size)).expand(images.shape)) for more in (0, 1)
    )
    return first * (1 - part) + second * part


def _on(axis: int, values: Tensor) -> Tensor:
    """Return values (N, size) as (N, 1, size, 1) or (N, 1, 1, size)."""
    return values[:, None, :, None] if axis == 2 else values[:, None, None, :]
