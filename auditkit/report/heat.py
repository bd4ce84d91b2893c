"""Maps of values that are not negative: one scale a row, colours that grow brighter, and how they lie over an image."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from auditkit.report.text import number_text

__all__ = ["HeatScale", "colour_strip", "heat_colours", "heat_scale", "lay_over"]

Array = npt.NDArray[Any]

# Of an image that a map is laid over, black and white become these greys: neither hides a dark or a bright colour.
_BLACK, _WHITE = 0.08, 0.68
# How much the strongest colour covers; what lies below it still shows.
_COVER = 0.85
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_STEPS = 32


@dataclass(frozen=True)
class HeatScale:
    """From 0 to the value that has the strongest colour; `beyond` says whether larger ones have it, too."""

    top: float
    beyond: bool

    @property
    def top_text(self) -> str:
        """What the end of a colour bar is called: the value, to two digits."""
        return number_text(float(f"{self.top:.2g}"))

    def text(self, heat: Array) -> str:
        """Return the scale in words, for one map of the row."""
        return f"0 to {self.top_text}" if self.top and heat.any() else "zero everywhere"

    def share(self, heat: Array) -> Array:
        """Return float64 values in [0, 1]: how strong the colour of each value is."""
        return np.clip(_finite(heat) / self.top, 0.0, 1.0) if self.top else np.zeros(heat.shape)


def heat_scale(maps: Sequence[Array]) -> HeatScale:
    """Return one scale for all maps of a row: up to their 99th percentile, for a few pixels must not darken the rest.

    Its top is zero where all values are, or where there is no map.
    """
    values = np.concatenate([np.zeros(1), *(np.ravel(_finite(heat)) for heat in maps)])
    largest = float(values.max())
    top = max(float(np.percentile(values[1:], 99)), 0.0) if len(values) > 1 else 0.0
    return HeatScale(top or largest, bool(largest > top > 0))


def lay_over(image: Array, share: Array) -> npt.NDArray[np.uint8]:
    """Return uint8 (H, W, 3): the image in grey and, over it, colours that cover the more the brighter they are.

    Where the map is zero nothing is hidden.

    Args:
        image: (H, W, C) in [0, 1]; of other than three or four channels the first is shown.
        share: (H, W) in [0, 1], see `HeatScale.share`.
    """
    grey = _finite(image[:, :, :3]) @ _LUMINANCE if image.shape[2] in (3, 4) else _finite(image[:, :, 0])
    below = (_BLACK + (_WHITE - _BLACK) * np.clip(grey, 0.0, 1.0))[:, :, None]
    colours = heat_colours()[np.rint(share * 255).astype(np.int64)] / 255
    cover = _COVER * share[:, :, None]
    laid: npt.NDArray[np.uint8] = np.rint(255 * (below * (1 - cover) + colours * cover)).astype(np.uint8)
    return laid


def colour_strip(*, over: bool) -> npt.NDArray[np.uint8]:
    """Return the colours of maps from nothing to the strongest, uint8 (rows, 32, 3).

    One row for maps by themselves; for maps `over` images two: as they look over black, and over white.
    """
    share = (np.arange(_STEPS) + 0.5) / _STEPS
    if not over:
        return heat_colours()[np.rint(share * 255).astype(np.int64)][None]
    image = np.repeat(np.array([0.0, 1.0])[:, None], _STEPS, axis=1)[:, :, None]
    return lay_over(image, np.repeat(share[None], 2, axis=0))


@functools.cache
def heat_colours() -> npt.NDArray[np.uint8]:
    """Return the colours of maps, uint8 (256, 3), from nothing to the strongest."""
    import matplotlib

    table = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)
    return np.ascontiguousarray(np.asarray(table)[:, :3], dtype=np.uint8)


def _finite(values: Array) -> Array:
    """Return float64 values in which what is no number counts as zero: a stored array may hold anything."""
    found = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(found), found, 0.0)
