"""How light becomes numbers: exposure, tone, contrast, hue and the noise of the sensor, for each image its own."""

from __future__ import annotations

import math

from torch import Tensor

from auditkit_plugins.camera.geometry import column

__all__ = ["contrasted", "exposed", "noisy", "recoloured", "toned"]

_MIDDLE_GREY = 0.5
_COLOURS = 3


def exposed(images: Tensor, factor: Tensor) -> Tensor:
    """Let `factor` (N,) times the light in; what is more than white stays white."""
    return (images * column(factor, images)).clamp(0, 1)


def toned(images: Tensor, lift: Tensor) -> Tensor:
    """Lift the middle tones by `lift` (N,) in (-1, 1), and neither black nor white, much as a gamma does.

    A parabola, since a power has no gradient at black and rounds differently in other batches.
    """
    return (images + column(lift, images) * images * (1 - images)).clamp(0, 1)


def contrasted(images: Tensor, factor: Tensor) -> Tensor:
    """Spread the values about middle grey by `factor` (N,)."""
    return ((images - _MIDDLE_GREY) * column(factor, images) + _MIDDLE_GREY).clamp(0, 1)


def recoloured(images: Tensor, turn: Tensor) -> Tensor:
    """Turn the colours about the axis of greys by `turn` (N,) radians; grey images stay."""
    if images.shape[1] != _COLOURS:
        return images
    cosine, sine = turn.double().cos(), turn.double().sin() / math.sqrt(_COLOURS)
    own, others = (1 + 2 * cosine) / _COLOURS, (1 - cosine) / _COLOURS
    following, preceding = others - sine, others + sine
    shifted = images.roll(-1, 1) * column(following, images) + images.roll(1, 1) * column(preceding, images)
    return (images * column(own, images) + shifted).clamp(0, 1)


def noisy(images: Tensor, normal: Tensor, read: Tensor, shot: Tensor) -> Tensor:
    """Add noise of deviation `read` (N,) in the dark, and at white as much of deviation `shot` (N,) beside it.

    `normal` (N, C, H, W) is standard normal; the variance of the shot noise grows with the light.
    """
    variance = column(read, images).square() + column(shot, images).square() * images
    return (images + normal * variance.clamp_min(1e-12).sqrt()).clamp(0, 1)
