"""Turn the stored arrays of exhibits into PNG pictures whose pixels can be seen."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from auditkit.report.heat import HeatScale, heat_colours, heat_scale, lay_over
from auditkit.result import ExhibitRecord, PanelRecord

__all__ = ["Drawn", "Picture", "draw_exhibit"]

_LARGEST_SIDE = 160
_NEAREST, _BOX = Image.Resampling.NEAREST, Image.Resampling.BOX

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Picture:
    """An encoded picture, its size in pixels, and the scale of its values in words."""

    png: bytes
    width: int
    height: int
    scale: str


@dataclass(frozen=True)
class Drawn:
    """One picture a panel, None where its array is not stored, and the scale that all maps of the row share."""

    pictures: tuple[Picture | None, ...]
    heat: HeatScale


def draw_exhibit(exhibit: ExhibitRecord, arrays: Arrays) -> Drawn:
    """Return the pictures of an exhibit; panels of a kind share one scale, as do all maps, laid over images or not."""
    factor = _difference_factor(_of_kind(exhibit, arrays, "difference"))
    laid_over = [array[:, :, -1] for array in _of_kind(exhibit, arrays, "overlay")]
    scale = heat_scale([*_of_kind(exhibit, arrays, "heat"), *laid_over])
    pictures = tuple(
        _draw_panel(panel, arrays[panel.array], factor, scale) if panel.array in arrays else None
        for panel in exhibit.panels
    )
    return Drawn(pictures, scale)


def _of_kind(exhibit: ExhibitRecord, arrays: Arrays, kind: str) -> list[Array]:
    return [arrays[p.array] for p in exhibit.panels if p.kind == kind and p.array in arrays]


def _draw_panel(panel: PanelRecord, array: Array, factor: float, scale: HeatScale) -> Picture:
    match panel.kind:
        case "image":
            return _encode(_resized(_colour_image(array)), "")
        case "difference":
            grey = np.clip(0.5 + factor * np.asarray(array, dtype=np.float64), 0.0, 1.0)
            text = f"\N{MULTIPLICATION SIGN} {factor:g}" if np.any(array) else "no change"
            return _encode(_resized(_colour_image(np.rint(grey * 255).astype(np.uint8))), text)
        case "heat":
            share = _resized_values(scale.share(array))
            image = Image.fromarray(np.rint(share * 255).astype(np.uint8))
            image.putpalette(heat_colours().tobytes())
            return _encode(_resized(image), scale.text(array))
        case "overlay":
            share = _resized_values(scale.share(array[:, :, -1]))
            channels = [_resized_values(array[:, :, number]) for number in range(array.shape[2] - 1)]
            image = Image.fromarray(lay_over(np.stack(channels, axis=2), share))
            return _encode(_resized(_in_few_colours(image)), scale.text(array[:, :, -1]))


def _difference_factor(differences: list[Array]) -> float:
    """Return the whole number (or a half) that brings the largest difference from mid-grey to full scale."""
    largest = max((float(np.abs(array).max()) for array in differences if array.size), default=0.0)
    if largest == 0.0:
        return 1.0
    return max(float(np.floor(0.5 / largest + 1e-6)), 0.5)


def _colour_image(array: npt.NDArray[np.uint8]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] not in (3, 4):
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array))


def _in_few_colours(image: Image.Image) -> Image.Image:
    """Return the picture in 256 colours: half the bytes, and no difference that one can see.

    Those of a large picture are chosen by its every third pixel and row, which takes half the time.
    """
    step = 3 if min(image.size) >= _LARGEST_SIDE // 2 else 1
    chosen = Image.fromarray(np.ascontiguousarray(np.asarray(image)[::step, ::step]))
    colours = chosen.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return colours if step == 1 else image.quantize(palette=colours, dither=Image.Dither.NONE)


def _encode(image: Image.Image, scale: str) -> Picture:
    buffer = io.BytesIO()
    # Twice the effort would save two bytes of a hundred.
    image.save(buffer, format="PNG")
    return Picture(buffer.getvalue(), image.width, image.height, scale)


def _resized(image: Image.Image) -> Image.Image:
    """Return the picture enlarged by a whole factor, pixel by pixel, or reduced to what a page has room for."""
    width, height = _shown_size(*image.size)
    return image.resize((width, height), _BOX if max(image.size) > _LARGEST_SIDE else _NEAREST)


def _resized_values(values: Array) -> Array:
    """Return values (H, W), averaged down to what a page has room for: a mean of colours would stand for no value."""
    height, width = values.shape
    if max(values.shape) <= _LARGEST_SIDE:
        return values
    reduced = Image.fromarray(np.asarray(values, dtype=np.float32)).resize(_shown_size(width, height), _BOX)
    return np.asarray(reduced, dtype=np.float64)


def _shown_size(width: int, height: int) -> tuple[int, int]:
    side = max(width, height)
    if side > _LARGEST_SIDE:
        return max(1, round(width * _LARGEST_SIDE / side)), max(1, round(height * _LARGEST_SIDE / side))
    factor = _LARGEST_SIDE // side
    return width * factor, height * factor
