"""Where the distortions of a camera see each pixel: lens, perspective and placement, random for each image."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from auditkit import Streams
from auditkit_plugins.camera.geometry import Points, pixels, placed, through_lens, tilted

__all__ = ["NUMBERS_OF_A_PHOTOGRAPH", "STRENGTHS", "DistortionName", "drawn", "power", "sightlines"]

STRENGTHS = (1, 2, 3)
"""Mild, medium, strong."""

DistortionName = Literal[
    "lens",
    "perspective",
    "placement",
    "rescale",
    "brightness",
    "contrast",
    "blur",
    "sensor_noise",
    "jpeg",
    "rounding",
    "photograph",
]

NUMBERS_OF_A_PHOTOGRAPH = 12
"""How many are drawn for one; the first seven are those of lens, perspective and placement."""

# The most that is drawn at each strength. Lengths are shares of the image's shorter side.
_BEND = (0.03, 0.08, 0.15)
_TILT = (0.04, 0.1, 0.2)
_TURN = (3.0, 7.0, 15.0)
_SHIFT = (0.02, 0.05, 0.1)
_ENLARGEMENT = (1.03, 1.08, 1.2)


def sightlines(name: DistortionName, images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Points | None:
    """Return where that distortion sees each pixel of images (N, C, H, W); None where it leaves them in their place."""
    side = min(images.shape[2:])
    match name:
        case "lens":
            return _bent(pixels(images), strength, drawn(rng, step, 1))
        case "perspective":
            return _tilted(pixels(images), strength, drawn(rng, step, 2))
        case "placement":
            return _placed(pixels(images), strength, drawn(rng, step, 4), side)
        case "photograph":
            draws = drawn(rng, step, NUMBERS_OF_A_PHOTOGRAPH)
            points = _tilted(_bent(pixels(images), strength, draws[:, :1]), strength, draws[:, 1:3])
            return _placed(points, strength, draws[:, 3:7], side)
        case _:
            return None


def drawn(rng: Streams, step: int | Tensor, count: int) -> Tensor:
    """Return float32 (N, count) in (-1, 1); the odd numbers of the stream are left to the sensor's noise."""
    return 2 * rng.uniform(2 * step, (count,)) - 1


def power(base: float, exponent: Tensor) -> Tensor:
    """Return float64 (N,), the base to the power of an exponent (N,)."""
    return torch.exp(exponent.double() * math.log(base))


def _bent(points: Points, strength: int, draws: Tensor) -> Points:
    return through_lens(points, draws[:, 0] * _BEND[strength - 1])


def _tilted(points: Points, strength: int, draws: Tensor) -> Points:
    return tilted(points, *(draws * _TILT[strength - 1]).unbind(1))


def _placed(points: Points, strength: int, draws: Tensor, side: int) -> Points:
    turn, down, right, enlargement = draws.unbind(1)
    shift = _SHIFT[strength - 1] * side
    factor = power(_ENLARGEMENT[strength - 1], enlargement)
    return placed(points, turn * math.radians(_TURN[strength - 1]), down * shift, right * shift, factor)
