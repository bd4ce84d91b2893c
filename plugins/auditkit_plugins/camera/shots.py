"""The distortions of a camera at three strengths, random for each image, and nearly all of them in one shot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeAlias, get_args

from torch import Tensor

from auditkit import Streams, as_jpeg
from auditkit_plugins.camera.focus import blurred, rescaled
from auditkit_plugins.camera.geometry import seen
from auditkit_plugins.camera.light import contrasted, exposed, noisy, toned
from auditkit_plugins.camera.sightlines import (
    NUMBERS_OF_A_PHOTOGRAPH,
    STRENGTHS,
    DistortionName,
    drawn,
    power,
    sightlines,
)

__all__ = [
    "DIFFERENTIABLE",
    "DISTORTIONS",
    "RANDOM",
    "STRENGTHS",
    "Distortion",
    "DistortionName",
    "photographed",
]

Distortion: TypeAlias = Callable[[Tensor, int, Streams, int | Tensor], Tensor]
"""Images (N, C, H, W) in [0, 1], a strength, a random stream an image, and which of its draws, to images."""

# The most that is drawn at each strength. Lengths are shares of the image's shorter side.
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
    draws = drawn(rng, step, NUMBERS_OF_A_PHOTOGRAPH)
    image = _softened(_seen("photograph", images, strength, rng, step), strength, draws[:, 7:8])
    image = _lit(image, strength, draws[:, 8:10])
    image = _contrasted(image, strength, draws[:, 10:11])
    return _grainy(image, strength, draws[:, 11:12], rng, step)


def _seen(name: DistortionName, images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    points = sightlines(name, images, strength, rng, step)
    return images if points is None else seen(images, points)


def _lens(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return _seen("lens", images, strength, rng, step)


def _perspective(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return _seen("perspective", images, strength, rng, step)


def _placement(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return _seen("placement", images, strength, rng, step)


def _rescale(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    least = _SIDE_LEFT[strength - 1]
    return rescaled(images, 1 - drawn(rng, step, 1)[:, 0].abs() * (1 - least), least)


def _brightness(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return _lit(images, strength, drawn(rng, step, 2))


def _contrast(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return _contrasted(images, strength, drawn(rng, step, 1))


def _blur(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return _softened(images, strength, drawn(rng, step, 1))


def _sensor_noise(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return _grainy(images, strength, drawn(rng, step, 1), rng, step)


def _jpeg(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return as_jpeg(images, _QUALITY[strength - 1])


def _rounding(images: Tensor, strength: int, rng: Streams, step: int | Tensor) -> Tensor:
    return (images * _GREY_LEVELS).round() / _GREY_LEVELS


def _softened(images: Tensor, strength: int, draws: Tensor) -> Tensor:
    widest = _BLUR[strength - 1] * min(images.shape[2:])
    return blurred(images, draws[:, 0].abs() * widest, widest)


def _lit(images: Tensor, strength: int, draws: Tensor) -> Tensor:
    light = exposed(images, power(2 ** _STOPS[strength - 1], draws[:, 0]))
    return toned(light, draws[:, 1] * _LIFT[strength - 1])


def _contrasted(images: Tensor, strength: int, draws: Tensor) -> Tensor:
    return contrasted(images, power(_CONTRAST[strength - 1], draws[:, 0]))


def _grainy(images: Tensor, strength: int, draws: Tensor, rng: Streams, step: int | Tensor) -> Tensor:
    level = draws[:, 0].abs()
    normal = rng.normal(2 * step + 1, images.shape[1:])
    return noisy(images, normal, level * _READ_NOISE[strength - 1], level * _SHOT_NOISE[strength - 1])


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
