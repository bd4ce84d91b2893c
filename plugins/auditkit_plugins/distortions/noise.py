"""Noise of a sensor and of a line: Gaussian, shot, impulse."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from auditkit import Streams
from auditkit_plugins.distortions.strength import Strength

__all__ = ["gaussian_noise", "impulse_noise", "shot_noise"]

_DEVIATION = Strength((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38))
_PHOTONS = Strength((500, 250, 100, 75, 50), (60, 25, 12, 5, 3))
_FLIPPED = Strength((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27))

_GREY_LEVELS = 256
# How many standard deviations above its mean (and then some) a count is looked for: draws of 24 bits end below.
_TAIL = 8


def gaussian_noise(images: Tensor, severity: int, rng: Streams) -> Tensor:
    """Add normal noise to each value: a sensor in the dark."""
    noise = rng.normal(0, images.shape[1:])
    return (images + noise * _DEVIATION.at(severity, images)).clamp(0, 1)


def shot_noise(images: Tensor, severity: int, rng: Streams) -> Tensor:
    """Count photons: each value becomes a Poisson count with that mean, white being `_PHOTONS` of them.

    Means are rounded to 256 levels. Counts come from the inverse of the distribution: the levels' tables stand one
    behind the other, level k from k to k + 1, so that one sorted search finds a count for every pixel.
    """
    photons = _PHOTONS.at(severity, images)
    most = math.ceil(photons + _TAIL * math.sqrt(photons) + _TAIL)
    counts = torch.arange(most, dtype=torch.float64, device=images.device)
    means = torch.linspace(0, photons, _GREY_LEVELS, dtype=torch.float64, device=images.device).unsqueeze(1)
    logarithms = torch.special.xlogy(counts, means) - means - torch.lgamma(counts + 1)
    shares = logarithms.exp().cumsum(1).clamp(max=1)
    level = (images * (_GREY_LEVELS - 1)).round().double()
    tables = (shares + torch.arange(_GREY_LEVELS, device=images.device).unsqueeze(1)).flatten()
    draw = level + rng.uniform(0, images.shape[1:]).double()
    found = torch.searchsorted(tables, draw.contiguous())
    return ((found - level.long() * most) / photons).to(images.dtype).clamp(0, 1)


def impulse_noise(images: Tensor, severity: int, rng: Streams) -> Tensor:
    """Set some values to black and as many to white: errors of bits."""
    flipped = _FLIPPED.at(severity, images)
    draw = rng.uniform(0, images.shape[1:])
    noisy = torch.where(draw < flipped, torch.ones_like(images), images)
    return torch.where(draw < flipped / 2, torch.zeros_like(images), noisy)
