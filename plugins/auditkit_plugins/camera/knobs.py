"""Natural transformations of an image as eight knobs, each with its range."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit_plugins.camera.focus import blurred
from auditkit_plugins.camera.geometry import pixels, placed, seen
from auditkit_plugins.camera.light import contrasted, exposed, recoloured

__all__ = ["KNOBS", "Ranges", "changed", "furthest", "legal", "transformed"]

KNOBS = ("turn", "right", "down", "zoom", "brightness", "contrast", "hue", "blur")

_COLOURS = 3
# How often a knob is set anew, and how often anywhere rather than near by.
_CHANGED, _ANYWHERE = 0.3, 0.4


@dataclass(frozen=True)
class Ranges:
    """How far each means goes at most; 0 (or 1 for a factor) takes it away."""

    turn: float
    shift: float
    zoom: float
    brightness: float
    contrast: float
    hue: float
    blur: float

    @property
    def used(self) -> tuple[bool, ...]:
        """Whether each knob does anything."""
        shift = self.shift > 0
        factors = (factor > 1 for factor in (self.zoom, self.brightness, self.contrast))
        return (self.turn > 0, shift, shift, *factors, self.hue > 0, self.blur > 0)

    def measured(self, settings: Tensor) -> Tensor:
        """Return float64 (N, 8): settings as degrees (turn, hue), shares of the shorter side, and factors."""
        turn, right, down, zoom, brightness, contrast, hue, blur = settings.double().unbind(1)
        factors = [
            torch.exp(setting * math.log(most))
            for setting, most in ((zoom, self.zoom), (brightness, self.brightness), (contrast, self.contrast))
        ]
        shifts = [right * self.shift, down * self.shift]
        return torch.stack([turn * self.turn, *shifts, *factors, hue * self.hue, blur * self.blur], 1)


def transformed(images: Tensor, settings: Tensor, ranges: Ranges) -> Tensor:
    """Return images (N, C, H, W), each with its own `settings` (N, 8) of the knobs in [-1, 1] of their ranges.

    It is turned, moved and enlarged, then blurred, then lit, its contrast and its colours changed.
    """
    side = min(images.shape[2:])
    turn, right, down, zoom, brightness, contrast, hue, blur = ranges.measured(settings).unbind(1)
    moved = seen(images, placed(pixels(images), turn.deg2rad(), down * side, right * side, zoom))
    soft = blurred(moved, blur * side, ranges.blur * side) if ranges.blur else moved
    return recoloured(contrasted(exposed(soft, brightness), contrast), hue.deg2rad())


def legal(images: Tensor, settings: Tensor, eps: Tensor, ranges: Ranges) -> Tensor:
    """Return settings (N, P, 8) within `eps` (N,), of the knobs that these images and ranges have."""
    used = [*ranges.used]
    used[KNOBS.index("hue")] &= images.shape[1] == _COLOURS
    bound = eps.view(-1, 1, 1) * settings.new_tensor(used)
    lowest = torch.where(settings.new_tensor([name == "blur" for name in KNOBS]) > 0, 0.0, -bound)
    return torch.minimum(torch.maximum(settings, lowest), bound)


def changed(draws: Tensor, settings: Tensor, reach: Tensor, most: Tensor | float = 1.0) -> Tensor:
    """Return (N, P, 8): settings (N, 8) with some knobs set anew, by draws (N, P, 3, 8), near by or anywhere."""
    which, where, how = draws.unbind(2)
    near = settings.unsqueeze(1) + (2 * how - 1) * reach
    fresh = torch.where(where < _ANYWHERE, (2 * how - 1) * most, near)
    chosen = (which < _CHANGED) | (which == which.amin(2, keepdim=True))
    return torch.where(chosen, fresh, settings.unsqueeze(1))


def furthest(settings: Tensor) -> Tensor:
    """Return float32 (N,): how far the knob that was turned furthest is along its range."""
    return settings.abs().amax(1)
