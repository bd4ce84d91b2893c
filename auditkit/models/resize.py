"""ONNX Resize in torch: any axes, every coordinate and rounding mode that exporters emit, differentiable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import torch

__all__ = ["COORDINATES", "NEAREST", "Numbers", "resize"]

Numbers: TypeAlias = torch.Tensor | Sequence[float] | None


def resize(
    x: torch.Tensor,
    scales: Numbers,
    sizes: Numbers,
    axes: Sequence[int] | None,
    mode: str,
    coordinates: str,
    nearest: str,
    cubic: float,
    exclude_outside: bool,
) -> torch.Tensor:
    """Resample like ONNX Resize, differentiably, one axis after the other.

    Args:
        x: any shape, floating point; the first axis is the batch and is never resized.
        scales: factors, one for each axis in `axes`; None or empty where `sizes` counts.
        sizes: new lengths, one for each axis in `axes`; None or empty where `scales` counts.
        axes: the axes meant; None means all.
        mode: `nearest`, `linear` or `cubic`.
        coordinates: one of `COORDINATES`.
        nearest: one of `NEAREST`; counts for `nearest` only.
        cubic: the coefficient of the cubic kernel.
        exclude_outside: cubic weights outside the tensor are zero, the others share what they had.

    Returns:
        `x` with new lengths along the axes, the same type.
    """
    for axis, scale, length in _targets(tuple(x.shape), _listed(scales), _listed(sizes), axes):
        extent = x.shape[axis]
        positions = _positions(extent, length, scale, coordinates)
        if mode == "nearest":
            index = NEAREST[nearest](positions, scale).clamp(0, extent - 1)
            x = x.index_select(axis, index.long().to(x.device))
        elif mode == "linear":
            x = _blend(x, axis, *_linear_taps(positions, extent))
        else:
            x = _blend(x, axis, *_cubic_taps(positions, extent, cubic, exclude_outside))
    return x


def _listed(numbers: Numbers) -> list[float]:
    if numbers is None:
        return []
    listed: list[float] = numbers.tolist() if isinstance(numbers, torch.Tensor) else list(numbers)
    return listed


def _targets(
    shape: tuple[int, ...], scales: list[float], sizes: list[float], axes: Sequence[int] | None
) -> Iterator[tuple[int, float, int]]:
    """Yield axis, scale and new length of every axis that changes."""
    for place, axis in enumerate(range(len(shape)) if axes is None else axes):
        extent = shape[axis]
        length = int(sizes[place]) if sizes else int(np.float32(extent) * np.float32(scales[place]))
        scale = length / extent if sizes else scales[place]
        # Exporters bake the batch size of the example image into `sizes`; nobody resizes a batch.
        if axis % len(shape) != 0 and (length != extent or scale != 1):
            yield axis, scale, length


def _positions(extent: int, length: int, scale: float, coordinates: str) -> torch.Tensor:
    """Return where in the old axis each new index lies.

    Ties must fall as in onnxruntime: float32 throughout, and divisors as tensors, because torch multiplies
    by the reciprocal of a plain number.
    """
    index = torch.arange(length, dtype=torch.float32)
    if coordinates == "align_corners":
        return index * (extent - 1) / torch.tensor(max(length - 1.0, 1.0))
    if coordinates == "pytorch_half_pixel" and length == 1:
        return torch.zeros(1)
    shift = 0.0 if coordinates == "asymmetric" else 0.5
    return (index + shift) / torch.tensor(scale, dtype=torch.float32) - shift


def _linear_taps(positions: torch.Tensor, extent: int) -> tuple[torch.Tensor, torch.Tensor]:
    inside = positions.clamp(0, extent - 1)
    low = inside.floor()
    part = inside - low
    index = torch.stack([low, (low + 1).clamp(max=extent - 1)])
    return index, torch.stack([1 - part, part])


def _cubic_taps(
    positions: torch.Tensor, extent: int, a: float, exclude_outside: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    index = positions.floor() + torch.arange(-1.0, 3.0).unsqueeze(1)
    distance = (positions - index).abs()
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    weight = torch.where(distance <= 1, near, far)
    if exclude_outside:
        weight = torch.where((index < 0) | (index >= extent), 0.0, weight)
        weight = weight / weight.sum(dim=0)
    return index.clamp(0, extent - 1), weight


def _blend(x: torch.Tensor, axis: int, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    shape = [1] * x.dim()
    shape[axis] = -1
    index, weight = index.long().to(x.device), weight.to(x)
    taps = [x.index_select(axis, i) * w.reshape(shape) for i, w in zip(index, weight, strict=True)]
    return torch.stack(taps).sum(dim=0)


def _rounded(positions: torch.Tensor, half: float) -> torch.Tensor:
    low = positions.floor()
    return low + (positions - low >= half)


# How far from the middle onnxruntime still sees a tie.
_TIE = 1e-6
NEAREST: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "floor": lambda positions, scale: positions.floor(),
    "ceil": lambda positions, scale: positions.ceil(),
    "round_prefer_floor": lambda positions, scale: _rounded(positions, 0.5 + _TIE),
    "round_prefer_ceil": lambda positions, scale: _rounded(positions, 0.5 - _TIE),
    # What onnxruntime does for operator sets older than 11, which name no nearest mode.
    "simple": lambda positions, scale: positions.ceil() if scale < 1 else positions.floor(),
}
COORDINATES = ("align_corners", "asymmetric", "half_pixel", "pytorch_half_pixel")
