"""How strong a corruption is: the published numbers, carried over to images of other sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Strength"]

_SMALL, _LARGE = 32, 224


@dataclass(frozen=True)
class Strength:
    """One number of a corruption at severities 1 to 5, as published for images of 32 and of 224 pixels."""

    small: tuple[float, float, float, float, float]
    """CIFAR-10-C."""
    large: tuple[float, float, float, float, float]
    """ImageNet-C."""
    is_length: bool = False
    """Measured in pixels: it grows with images larger than 224 pixels."""

    def at(self, severity: int, images: Tensor) -> float:
        """Return the number for images (N, C, H, W).

        Between the two published sizes it is interpolated geometrically over the shorter side, linearly where one end
        is zero; outside it stays. A length keeps its ratio to the side above 224 pixels, but not below 32, where
        blur of less than a pixel would be none.
        """
        side = min(images.shape[2:])
        known = min(max(side, _SMALL), _LARGE)
        part = math.log(known / _SMALL) / math.log(_LARGE / _SMALL)
        low, high = self.small[severity - 1], self.large[severity - 1]
        value = low ** (1 - part) * high**part if low > 0 and high > 0 else low + (high - low) * part
        return value * max(side, known) / known if self.is_length else value
