"""Turn the stored arrays of exhibits into PNG pictures whose pixels can be seen."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from auditkit.report.heat import HeatScale, heat_colours, heat_scale, lay_over
from auditkit.report.marks import GALLERY_PEN, Pen, draw_marks
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
    marked: bool = False
    """Whether boxes are drawn on it, or would be if there were any: those of its row share one size."""


@dataclass(frozen=True)
class Drawn:
    """One picture a panel, None where its array is not stored, and the scale that all maps of the row share."""

    pictures: tuple[Picture | None, ...]
    heat: HeatScale


def draw_exhibit(exhibit: ExhibitRecord, arrays: Arrays, pen: Pen = GALLERY_PEN) -> Drawn:
    """Return the pictures of an exhibit; panels of a kind share one scale, as do all maps, laid over images or not.

    Images with boxes on them, and those of the same shape beside them, are as large as `pen` says.
    """
    factor = _difference_factor(_of_kind(exhibit, arrays, "difference"))
    laid_over = [array[:, :, -1] for array in _of_kind(exhibit, arrays, "overlay")]
    scale = heat_scale([*_of_kind(exhibit, arrays, "heat"), *laid_over])
    marked = {arrays[p.array].shape for p in exhibit.panels if p.kind == "image" and p.marks and p.array in arrays}
    pictures: list[Picture | None] = []
    for panel in exhibit.panels:
        array = arrays.get(panel.array)
        if array is None:
            pictures.append(None)
        elif panel.kind == "image" and array.shape in marked:
            pictures.append(_draw_marked(panel, array, pen))
        else:
            pictures.append(_draw_panel(panel, array, factor, scale))
    return Drawn(tuple(pictures), scale)


def _of_kind(exhibit: ExhibitRecord, arrays: Arrays, kind: str) -> list[Array]:
    return [arrays[p.array] for p in exhibit.panels if p.kind == kind and p.array in arrays]


def _draw_marked(panel: PanelRecord, array: Array, pen: Pen) -> Picture:
    image = draw_marks(_resized(_colour_image(array), pen.side), panel.marks, pen)
    return replace(_encode(image, ""), marked=True)


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


def _resized(image: Image.Image, side: int = _LARGEST_SIDE) -> Image.Image:
    """Return the picture enlarged by a whole factor, pixel by pixel, or reduced to what a page has room for."""
    return image.resize(_shown_size(*image.size, side), _BOX if max(image.size) > side else _NEAREST)


def _resized_values(values: Array) -> Array:
    """Return values (H, W), averaged down to what a page has room for: a mean of colours would stand for no value."""
    height, width = values.shape
    if max(values.shape) <= _LARGEST_SIDE:
        return values
    reduced = Image.fromarray(np.asarray(values, dtype=np.float32)).resize(_shown_size(width, height), _BOX)
    return np.asarray(reduced, dtype=np.float64)


def _shown_size(width: int, height: int, side: int = _LARGEST_SIDE) -> tuple[int, int]:
    longer = max(width, height)
    if longer > side:
        return max(1, round(width * side / longer)), max(1, round(height * side / longer))
    factor = side // longer
    return width * factor, height * factor
