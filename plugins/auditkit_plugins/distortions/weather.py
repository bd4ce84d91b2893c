"""Weather and light: snow, fog, brightness. Frost needs photographs of ice, so there is none."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from auditkit import Streams
from auditkit_plugins.distortions.filters import trail, zoom
from auditkit_plugins.distortions.strength import Strength

__all__ = ["brightness", "fog", "plasma", "snow"]

_HAZE = Strength((0.2, 0.5, 0.75, 1, 1.5), (1.5, 2, 2.5, 2.5, 3))
_DECAY = Strength((3, 3, 2.5, 2, 1.75), (2, 2, 1.7, 1.5, 1.4))
_LIGHT = Strength((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5))

_FLAKE_MEAN = Strength((0.1, 0.1, 0.15, 0.25, 0.3), (0.1, 0.2, 0.55, 0.55, 0.55))
_FLAKE_DEVIATION = Strength((0.2, 0.2, 0.3, 0.3, 0.3), (0.3, 0.3, 0.3, 0.3, 0.3))
_FLAKE_SIZE = Strength((1, 1, 1.75, 2.25, 1.25), (3, 2, 4, 4.5, 2.5), is_length=True)
_FLAKE_THRESHOLD = Strength((0.6, 0.5, 0.55, 0.6, 0.65), (0.5, 0.5, 0.9, 0.85, 0.85))
_FALL = Strength((8, 10, 10, 12, 14), (10, 12, 12, 12, 12), is_length=True)
_FALL_FADING = Strength((3, 4, 4, 6, 12), (4, 4, 8, 8, 12), is_length=True)
_COLOUR_LEFT = Strength((0.95, 0.9, 0.9, 0.85, 0.8), (0.8, 0.7, 0.7, 0.65, 0.55))

_LUMA = (0.299, 0.587, 0.114)


def brightness(images: Tensor, severity: int, rng: Streams) -> Tensor:
    """Raise the value (of hue, saturation and value): more light, as through an exposure that is too long."""
    value = images.amax(1, keepdim=True)
    raised = (value + _LIGHT.at(severity, images)).clamp(max=1)
    return torch.where(value > 0, images / value.clamp_min(1e-30) * raised, raised).clamp(0, 1)


def fog(images: Tensor, severity: int, rng: Streams) -> Tensor:
    """Add a cloud of plasma, and darken the sum to the image's own largest value."""
    height, width = images.shape[2:]
    haze = _HAZE.at(severity, images)
    size = 2 ** math.ceil(math.log2(max(height, width)))
    cloud = plasma(rng, size, _DECAY.at(severity, images))[:, None, :height, :width]
    largest = images.amax((1, 2, 3), keepdim=True)
    return ((images + cloud * haze) * (largest / (largest + haze))).clamp(0, 1)


def plasma(rng: Streams, size: int, decay: float) -> Tensor:
    """Return float32 (N, size, size) in [0, 1]: fractal heights by midpoint displacement, `size` a power of two.

    Each round halves the distance of known points: first the middle of every square gets the mean of its corners,
    then the middle of every edge that of its four neighbours, each plus a random part that shrinks by the square of
    `decay` a round. The map has no border: what leaves it on one side enters on the other.
    """
    heights = torch.zeros(len(rng.keys), size, size, device=rng.keys.device)
    distance, roughness, draw = size, 1.0, 0
    while distance >= 2:
        half = distance // 2
        diagonal = ((half, half), (half, -half), (-half, half), (-half, -half))
        straight = ((half, 0), (-half, 0), (0, half), (0, -half))
        for top, left, neighbours in ((half, half, diagonal), (0, half, straight), (half, 0, straight)):
            mean = sum((heights.roll(shift, (1, 2)) for shift in neighbours), torch.zeros_like(heights)) / 4
            random = 2 * rng.uniform(draw, (size // distance, size // distance)) - 1
            heights[:, top::distance, left::distance] = mean[:, top::distance, left::distance] + random * roughness
            draw += 1
        distance, roughness = half, roughness / decay**2
    heights = heights - heights.amin((1, 2), keepdim=True)
    return heights / heights.amax((1, 2), keepdim=True).clamp_min(1e-30)


def snow(images: Tensor, severity: int, rng: Streams) -> Tensor:
    """Whiten the image and let flakes fall: bright specks of noise, smeared downwards."""
    size = images.shape[2:]
    flakes = rng.normal(0, (1, *size)) * _FLAKE_DEVIATION.at(severity, images) + _FLAKE_MEAN.at(severity, images)
    flakes = zoom(flakes, max(_FLAKE_SIZE.at(severity, images), 1.0))
    flakes = torch.where(flakes < _FLAKE_THRESHOLD.at(severity, images), torch.zeros_like(flakes), flakes).clamp(0, 1)
    angle = -(rng.uniform(1, ()) + 0.5) * (math.pi / 2)
    flakes = trail(flakes, _FALL.at(severity, images), _FALL_FADING.at(severity, images), angle)
    left = _COLOUR_LEFT.at(severity, images)
    whitened = images * left + torch.maximum(images, _grey(images) * 1.5 + 0.5) * (1 - left)
    return (whitened + flakes + flakes.flip(2, 3)).clamp(0, 1)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] != len(_LUMA):
        return images.mean(1, keepdim=True)
    red, green, blue = images.unbind(1)
    return (red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]).unsqueeze(1)
