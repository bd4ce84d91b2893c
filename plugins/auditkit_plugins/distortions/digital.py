"""What processing does to images: contrast, saturation, elastic deformation, pixelation, JPEG."""

from __future__ import annotations

import torch
from torch import Tensor

from auditkit import Streams, as_jpeg
from auditkit_plugins.distortions.filters import mirrored, reflected, sample, smooth
from auditkit_plugins.distortions.strength import Strength

__all__ = ["contrast", "elastic", "jpeg", "pixelate", "saturate"]

_CONTRAST = Strength((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05))
_SATURATION = Strength((0.3, 0.1, 1.5, 2, 2.5), (0.3, 0.1, 2, 5, 20))
_MORE_SATURATION = Strength((0, 0, 0, 0.1, 0.2), (0, 0, 0, 0.1, 0.2))
_PIXELS_LEFT = Strength((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25))
_QUALITY = Strength((80, 65, 58, 50, 40), (25, 18, 15, 10, 7))

# Shares of the shorter side. ImageNet-C states them as shares of 244 pixels and applies them to 224.
_BENDING = Strength((0, 0.05, 0.08, 0.1, 0.1), (2.179, 2.179, 0.0545, 0.0763, 0.1307))
_BENDING_SIGMA = Strength((0, 0.2, 0.06, 0.04, 0.03), (0.7625, 0.0871, 0.0109, 0.0109, 0.0109))
_PULL = Strength((0.08, 0.07, 0.06, 0.05, 0.03), (0.1089, 0.2179, 0.0218, 0.0218, 0.0218))
_BENDING_CUT = 3.0
_FLATTEST = 1e-3


def contrast(images: Tensor, severity: int, rng: Streams) -> Tensor:
    """Draw every value towards the mean of its channel."""
    mean = images.double().mean((2, 3), keepdim=True).to(images.dtype)
    return ((images - mean) * _CONTRAST.at(severity, images) + mean).clamp(0, 1)


def saturate(images: Tensor, severity: int, rng: Streams) -> Tensor:
    """Change the saturation (of hue, saturation and value): less at severities 1 and 2, more at 3 to 5.

    A grey pixel has no hue that could become stronger: it stays.
    """
    value = images.amax(1, keepdim=True)
    saturation = (value - images.amin(1, keepdim=True)) / value.clamp_min(1e-30)
    changed = saturation * _SATURATION.at(severity, images) + _MORE_SATURATION.at(severity, images)
    ratio = torch.where(saturation > 0, changed.clamp(0, 1) / saturation.clamp_min(1e-30), torch.ones_like(value))
    return (value - (value - images) * ratio).clamp(0, 1)


def elastic(images: Tensor, severity: int, rng: Streams) -> Tensor:
    """Pull the image at three points (an affine map), then bend it by a smooth random field."""
    side = min(images.shape[2:])
    pulled = sample(images, *_pulled(images, _PULL.at(severity, images) * side, rng), reflected)
    bending, sigma = _BENDING.at(severity, images) * side, _BENDING_SIGMA.at(severity, images) * side
    if bending == 0:
        return pulled.clamp(0, 1)
    field = 2 * rng.uniform(1, (2, *images.shape[2:])) - 1
    field = smooth(field, sigma, _BENDING_CUT, mirrored) * bending
    rows, columns = _grid(images)
    return sample(pulled, rows + field[:, 0], columns + field[:, 1], mirrored).clamp(0, 1)


def _grid(images: Tensor) -> tuple[Tensor, Tensor]:
    height, width = images.shape[2:]
    rows = torch.arange(height, dtype=images.dtype, device=images.device).view(1, -1, 1)
    columns = torch.arange(width, dtype=images.dtype, device=images.device).view(1, 1, -1)
    return rows.expand(1, height, width), columns.expand(1, height, width)


def _pulled(images: Tensor, pull: float, rng: Streams) -> tuple[Tensor, Tensor]:
    """Return where each pixel comes from, rows and columns (N, H, W), once three corners of a square were moved.

    The corners lie a third of the shorter side from the middle: below right, above right, above left. Each moves by up
    to `pull` pixels in both directions.
    """
    height, width = images.shape[2:]
    third = min(height, width) // 3
    below_right, above_right, above_left = ((2 * rng.uniform(0, (3, 2)) - 1) * pull).view(-1, 3, 2, 1, 1).unbind(1)
    # What one row down, and one column to the right, becomes.
    down, right = (below_right - above_right) / (2 * third), (above_right - above_left) / (2 * third)
    down_row, down_column = 1 + down[:, 0], down[:, 1]
    right_row, right_column = right[:, 0], 1 + right[:, 1]
    area = down_row * right_column - down_column * right_row
    area = torch.where(area < 0, area.clamp(max=-_FLATTEST), area.clamp_min(_FLATTEST))
    corner_row, corner_column = height // 2 - third, width // 2 + third
    rows, columns = _grid(images)
    rows = rows - (corner_row + above_right[:, 0])
    columns = columns - (corner_column + above_right[:, 1])
    return (
        corner_row + (rows * right_column - columns * right_row) / area,
        corner_column + (columns * down_row - rows * down_column) / area,
    )


def pixelate(images: Tensor, severity: int, rng: Streams) -> Tensor:
    """Replace each pixel by the mean of its cell on a coarser grid."""
    left = _PIXELS_LEFT.at(severity, images)
    for axis in (3, 2):
        images = _cell_means(images, axis, max(1, int(images.shape[axis] * left)))
    return images.clamp(0, 1)


def _cell_means(images: Tensor, axis: int, cells: int) -> Tensor:
    size = images.shape[axis]
    cell = (2 * torch.arange(size, device=images.device) + 1) * cells // (2 * size)
    lengths = torch.bincount(cell, minlength=cells)
    starts = lengths.cumsum(0) - lengths
    shape = (-1, 1) if axis == 2 else (-1,)
    total = torch.zeros_like(images.narrow(axis, 0, cells))
    for number in range(-(-size // cells)):
        pixels = images.index_select(axis, (starts + number).clamp(max=size - 1))
        total = total + pixels * (number < lengths).view(shape)
    return (total / lengths.view(shape)).index_select(axis, cell)


def jpeg(images: Tensor, severity: int, rng: Streams) -> Tensor:
    """Write each image as a JPEG and read it back."""
    return as_jpeg(images, round(_QUALITY.at(severity, images)))
