"""Blur: out of focus, in motion, zooming, and Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from auditkit import Streams
from auditkit_plugins.distortions.filters import clamped, convolve, gaussian, reflected, smooth, trail, zoom
from auditkit_plugins.distortions.strength import Strength

__all__ = ["defocus_blur", "disk", "gaussian_blur", "motion_blur", "zoom_blur"]

_DISK = Strength((0.3, 0.4, 0.5, 1, 1.5), (3, 4, 6, 8, 10), is_length=True)
_RIM = Strength((0.4, 0.5, 0.6, 0.2, 0.1), (0.1, 0.5, 0.5, 0.5, 0.5))
_TRAIL = Strength((6, 6, 6, 8, 9), (10, 15, 15, 15, 20), is_length=True)
_FADING = Strength((1, 1.5, 2, 2, 2.5), (3, 5, 8, 12, 15), is_length=True)
_LARGEST_ZOOM = Strength((1.06, 1.11, 1.15, 1.20, 1.25), (1.11, 1.15, 1.20, 1.24, 1.30))
_ZOOM_STEP = Strength((0.01, 0.01, 0.01, 0.01, 0.01), (0.01, 0.01, 0.02, 0.02, 0.03))
_SIGMA = Strength((0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6), is_length=True)

_LARGE_DISK = 8
_CUT = 4.0


def defocus_blur(images: Tensor, severity: int, rng: Streams) -> Tensor:
    """Spread each pixel over a disk: a lens that is out of focus."""
    kernel = disk(_DISK.at(severity, images), _RIM.at(severity, images))
    return convolve(images, kernel, reflected).clamp(0, 1)


def disk(radius: float, rim: float) -> Tensor:
    """Return the pixels of a disk, their edge softened by a Gaussian of `rim` pixels: float64, odd sizes, sum 1."""
    soft = 1 if radius <= _LARGE_DISK else 2
    reach = math.floor(radius) + soft
    along = torch.arange(-reach, reach + 1, dtype=torch.float64)
    inside = (along**2 + along.unsqueeze(1) ** 2 <= radius**2).double()
    edge = gaussian(soft, rim)
    blurred = torch.nn.functional.conv2d(inside[None, None], torch.outer(edge, edge)[None, None], padding=soft)
    return blurred[0, 0] / inside.sum()


def motion_blur(images: Tensor, severity: int, rng: Streams) -> Tensor:
    """Smear the image in a direction within 45 degrees of the horizontal: a camera in motion."""
    angle = (rng.uniform(0, ()) - 0.5) * (math.pi / 2)
    return trail(images, _TRAIL.at(severity, images), _FADING.at(severity, images), angle).clamp(0, 1)


def zoom_blur(images: Tensor, severity: int, rng: Streams) -> Tensor:
    """Take the mean of the image and its enlargements: a camera that rushes forward."""
    largest, step = _LARGEST_ZOOM.at(severity, images), _ZOOM_STEP.at(severity, images)
    zooms = round((largest - 1) / step) + 1
    total = images
    for number in range(zooms):
        total = total + zoom(images, 1 + number * step)
    return (total / (zooms + 1)).clamp(0, 1)


def gaussian_blur(images: Tensor, severity: int, rng: Streams) -> Tensor:
    """Smooth the image by a Gaussian."""
    return smooth(images, _SIGMA.at(severity, images), _CUT, clamped).clamp(0, 1)
