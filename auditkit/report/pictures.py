"""Turn the stored arrays of exhibits into PNG pictures whose pixels can be seen."""

from __future__ import annotations

import functools
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from auditkit.result import ExhibitRecord, PanelRecord

__all__ = ["Picture", "draw_exhibit", "heat_colours"]

_LARGEST_SIDE = 160
_NEAREST, _BOX = Image.Resampling.NEAREST, Image.Resampling.BOX

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Picture:
    """An encoded picture, its size in pixels, and the scale of its values in words."""

    png: bytes
    width: int
    height: int
    scale: str


def draw_exhibit(exhibit: ExhibitRecord, arrays: Arrays) -> tuple[Picture | None, ...]:
    """Return one picture a panel, None where its array is not stored; panels of a kind share one scale."""
    factor = _difference_factor(_of_kind(exhibit, arrays, "difference"))
    top = _heat_top(_of_kind(exhibit, arrays, "heat"))
    return tuple(
        _draw_panel(panel, arrays[panel.array], factor, top) if panel.array in arrays else None
        for panel in exhibit.panels
    )


def _of_kind(exhibit: ExhibitRecord, arrays: Arrays, kind: str) -> list[npt.NDArray[Any]]:
    return [arrays[p.array] for p in exhibit.panels if p.kind == kind and p.array in arrays]


def _draw_panel(panel: PanelRecord, array: npt.NDArray[Any], factor: float, top: float) -> Picture:
    match panel.kind:
        case "image":
            return _encode(_colour_image(array), "")
        case "difference":
            grey = np.clip(0.5 + factor * np.asarray(array, dtype=np.float64), 0.0, 1.0)
            scale = f"\N{MULTIPLICATION SIGN} {factor:g}" if np.any(array) else "no change"
            return _encode(_colour_image(np.rint(grey * 255).astype(np.uint8)), scale)
        case "heat":
            share = np.clip(np.asarray(array, dtype=np.float64) / top, 0.0, 1.0)
            image = Image.fromarray(np.rint(share * 255).astype(np.uint8))
            image.putpalette(heat_colours().tobytes())
            return _encode(image, f"scale 0 to {top:.2g}")
        case "overlay":
            return _encode(_colour_image(np.rint(np.clip(array[:, :, :-1], 0, 1) * 255).astype(np.uint8)), "")


def _difference_factor(differences: list[npt.NDArray[Any]]) -> float:
    """Return the whole number (or a half) that brings the largest difference from mid-grey to full scale."""
    largest = max((float(np.abs(array).max()) for array in differences if array.size), default=0.0)
    if largest == 0.0:
        return 1.0
    return max(float(np.floor(0.5 / largest + 1e-6)), 0.5)


def _heat_top(heats: list[npt.NDArray[Any]]) -> float:
    """Return the 99th percentile of all heat: a few bright pixels must not darken the rest."""
    values = np.concatenate([np.ravel(array) for array in heats]) if heats else np.zeros(1)
    return float(np.percentile(values, 99)) or float(values.max()) or 1.0


def _colour_image(array: npt.NDArray[np.uint8]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] not in (3, 4):
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array))


def _encode(image: Image.Image, scale: str) -> Picture:
    image = _resize(image)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return Picture(buffer.getvalue(), image.width, image.height, scale)


def _resize(image: Image.Image) -> Image.Image:
    side = max(image.size)
    if side > _LARGEST_SIDE:
        # A palette cannot be averaged.
        averaged = image.convert("RGB") if image.mode == "P" else image
        width, height = (max(1, round(length * _LARGEST_SIDE / side)) for length in image.size)
        return averaged.resize((width, height), _BOX)
    factor = _LARGEST_SIDE // side
    return image.resize((image.width * factor, image.height * factor), _NEAREST)


@functools.cache
def heat_colours() -> npt.NDArray[np.uint8]:
    """Return the colours of heat panels, uint8 (256, 3), from nothing to the brightest."""
    import matplotlib

    table = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)
    return np.ascontiguousarray(np.asarray(table)[:, :3], dtype=np.uint8)
