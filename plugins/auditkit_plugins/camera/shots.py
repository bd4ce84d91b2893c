"""The distortions of a camera at three strengths, random for each image, and nearly all of them in one shot."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from auditkit import Streams, as_jpeg
from auditkit_plugins.camera.focus import blurred, rescaled
from auditkit_plugins.camera.geometry import Points, pixels, placed, seen, through_lens, tilted
from auditkit_plugins.camera.light import contrasted, exposed, noisy, toned

__all__ = [
    "DIFFERENTIABLE",
    "DISTORTIONS",
    "RANDOM",
    "STRENGTHS",
    "Distortion",
    "DistortionName",
    "photographed",
]

STRENGTHS = (1, 2, 3)
"""Mild, medium, strong."""

Distortion: TypeAlias = Callable[[Tensor, int, Streams, int | Tensor], Tensor]
"""Images (N, C, H, W) in [0, 1], a strength, a random stream an image, and which of its draws, to images."""

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

# The most that is drawn at each strength. Lengths are shares of the image's shorter side.
_BEND = (0.03, 0.08, 0.15)
_TILT = (0.04, 0.1, 0.2)
_TURN = (3.0, 7.0, 15.0)
_SHIFT = (0.02, 0.05, 0.1)
_ENLARGEMENT = (1.03, 1.08, 1.2)
_SIDE_LEFT = (0.85, 0.7, 0.5)
_STOPS = (0.2, 0.4, 0.8)
_LIFT = (0.1, 0.2, 0.4)
_CONTRAST = (1.1, 1.25, 1.6)
_BLUR = (0.0125, 0.022, 0.035)
_READ_NOISE = (0.005, 0.01, 0.02)
_SHOT_NOISE = (0.01, 0.02, 0.04)
_QUALITY = (90, 75, 50)
_GREY_LEVELS = 255


def photographed(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    """Do to images (N, C, H, W) all that a camera does before it writes a file, differentiably.

    Lens, perspective and placement are sampled at once; blur, light, contrast and the sensor's noise follow. The
    parameters are a function of stream and `step` (one number, or int64 (N,)) alone.
    """
    draws = _draws(rng, step, 12)
    points = _bent(pixels(images), strength, draws[:, :1])
    points = _tilted(points, strength, draws[:, 1:3])
    points = _placed(points, strength, draws[:, 3:7], min(images.shape[2:]))
    image = _softened(seen(images, points), strength, draws[:, 7:8])
    image = _lit(image, strength, draws[:, 8:10])
    image = _contrasted(image, strength, draws[:, 10:11])
    return _grainy(image, strength, draws[:, 11:12], rng, step)


def _lens(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return seen(images, _bent(pixels(images), strength, _draws(rng, step, 1)))


def _perspective(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return seen(images, _tilted(pixels(images), strength, _draws(rng, step, 2)))


def _placement(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return seen(images, _placed(pixels(images), strength, _draws(rng, step, 4), min(images.shape[2:])))


def _rescale(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    least = _SIDE_LEFT[strength - 1]
    return rescaled(images, 1 - _draws(rng, step, 1)[:, 0].abs() * (1 - least), least)


def _brightness(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return _lit(images, strength, _draws(rng, step, 2))


def _contrast(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return _contrasted(images, strength, _draws(rng, step, 1))


def _blur(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return _softened(images, strength, _draws(rng, step, 1))


def _sensor_noise(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return _grainy(images, strength, _draws(rng, step, 1), rng, step)


def _jpeg(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return as_jpeg(images, _QUALITY[strength - 1])


def _rounding(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return (images * _GREY_LEVELS).round() / _GREY_LEVELS


def _draws(rng: Streams, step: int | Tensor, count: int) -> Tensor:
    """Return float32 (N, count) in (-1, 1); the odd numbers of the stream are left to the sensor's noise."""
    return 2 * rng.uniform(2 * step, (count,)) - 1


def _bent(points: Points, strength: int, draws: Tensor) -> Points:
    return through_lens(points, draws[:, 0] * _BEND[strength - 1])


def _tilted(points: Points, strength: int, draws: Tensor) -> Points:
    return tilted(points, *(draws * _TILT[strength - 1]).unbind(1))


def _placed(points: Points, strength: int, draws: Tensor, side: int) -> Points:
    turn, down, right, enlargement = draws.unbind(1)
    shift = _SHIFT[strength - 1] * side
    factor = _power(_ENLARGEMENT[strength - 1], enlargement)
    return placed(points, turn * math.radians(_TURN[strength - 1]), down * shift, right * shift, factor)


def _softened(images: Tensor, strength: int, draws: Tensor) -> Tensor:
    widest = _BLUR[strength - 1] * min(images.shape[2:])
    return blurred(images, draws[:, 0].abs() * widest, widest)


def _lit(images: Tensor, strength: int, draws: Tensor) -> Tensor:
    light = exposed(images, _power(2 ** _STOPS[strength - 1], draws[:, 0]))
    return toned(light, draws[:, 1] * _LIFT[strength - 1])


def _contrasted(images: Tensor, strength: int, draws: Tensor) -> Tensor:
    return contrasted(images, _power(_CONTRAST[strength - 1], draws[:, 0]))


def _grainy(images: Tensor, strength: int, draws: Tensor, rng: Streams, step: int | Tensor) -> Tensor:
    level = draws[:, 0].abs()
    normal = rng.normal(2 * step + 1, images.shape[1:])
    return noisy(images, normal, level * _READ_NOISE[strength - 1], level * _SHOT_NOISE[strength - 1])


def _power(base: float, exponent: Tensor) -> Tensor:
    """Return float64 (N,)."""
    return torch.exp(exponent.double() * math.log(base))


DISTORTIONS: Mapping[DistortionName, Distortion] = MappingProxyType(
    {
        "lens": _lens,
        "perspective": _perspective,
        "placement": _placement,
        "rescale": _rescale,
        "brightness": _brightness,
        "contrast": _contrast,
        "blur": _blur,
        "sensor_noise": _sensor_noise,
        "jpeg": _jpeg,
        "rounding": _rounding,
        "photograph": photographed,
    }
)

RANDOM: frozenset[DistortionName] = frozenset(get_args(DistortionName)) - {"jpeg", "rounding"}
"""Those with parameters that are drawn; the others do the same at every draw."""

DIFFERENTIABLE: frozenset[DistortionName] = RANDOM
"""Those through which gradients flow to the images."""
