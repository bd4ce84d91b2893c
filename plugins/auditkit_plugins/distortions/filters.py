"""What corruptions are made of: smoothing, resampling and trails, the same for an image in any batch.

Everything is either elementwise or done image by image: a kernel that sees the whole batch may round differently for
another number of images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Edge", "clamped", "convolve", "gaussian", "mirrored", "reflected", "sample", "smooth", "trail", "zoom"]

Edge: TypeAlias = Callable[[Tensor, int], Tensor]
"""From int64 positions along an axis, outside it too, to positions inside; the number is the size of the axis."""


def clamped(positions: Tensor, size: int) -> Tensor:
    """Repeat the last pixel: d | abcd | a becomes a | abcd | d."""
    return positions.clamp(0, size - 1)


def mirrored(positions: Tensor, size: int) -> Tensor:
    """Mirror at the edge of the last pixel: dcba | abcd | dcba."""
    inside = positions.remainder(2 * size)
    return torch.minimum(inside, 2 * size - 1 - inside)


def reflected(positions: Tensor, size: int) -> Tensor:
    """Mirror at the centre of the last pixel: dcb | abcd | cba."""
    period = max(2 * size - 2, 1)
    inside = positions.remainder(period)
    return torch.minimum(inside, period - inside).clamp(max=size - 1)


def convolve(images: Tensor, kernel: Tensor, edge: Edge) -> Tensor:
    """Return images (N, C, H, W) under a symmetric kernel (h, w) of odd sizes, each channel by itself."""
    for axis, reach in ((2, kernel.shape[0] // 2), (3, kernel.shape[1] // 2)):
        size = images.shape[axis]
        positions = torch.arange(-reach, size + reach, device=images.device)
        images = images.index_select(axis, edge(positions, size))
    weight = kernel.to(images)[None, None]
    # A copy of each image starts at an aligned address, as the kernels of the next batch will find it.
    return torch.stack([functional.conv2d(image.clone().unsqueeze(1), weight).squeeze(1) for image in images])


def smooth(images: Tensor, sigma: float, cut: float, edge: Edge) -> Tensor:
    """Return images (N, C, H, W) under a Gaussian of `sigma` pixels that ends after `cut` sigmas."""
    reach = int(cut * sigma + 0.5)
    if reach == 0:
        return images
    kernel = gaussian(reach, sigma)
    return convolve(convolve(images, kernel[:, None], edge), kernel[None], edge)


def gaussian(reach: int, sigma: float) -> Tensor:
    """Return float64 (2 * reach + 1,), a Gaussian whose values sum to 1."""
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / sigma) ** 2)
    return weights / weights.sum()


def sample(images: Tensor, rows: Tensor, columns: Tensor, edge: Edge) -> Tensor:
    """Return images (N, C, H, W) as seen at float positions (N, H, W) between their pixels, bilinearly."""
    height, width = images.shape[2:]
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top).unsqueeze(1), (columns - left).unsqueeze(1)
    seen = torch.zeros_like(images)
    for row, vertical in ((0, 1 - down), (1, down)):
        for column, horizontal in ((0, 1 - right), (1, right)):
            index = edge(top.long() + row, height) * width + edge(left.long() + column, width)
            seen = seen + _pick(images, index) * (vertical * horizontal)
    return seen


def _pick(images: Tensor, index: Tensor) -> Tensor:
    """Return the pixels of images (N, C, H, W) at flat positions (N, H, W)."""
    flat = index.flatten(1).unsqueeze(1).expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, flat).view_as(images)


def zoom(images: Tensor, factor: float) -> Tensor:
    """Return the middle of images (N, C, H, W), enlarged bilinearly; `factor` is at least 1."""
    for axis in (2, 3):
        size = images.shape[axis]
        middle = (size - 1) / 2
        positions = middle + (torch.arange(size, dtype=torch.float64, device=images.device) - middle) / factor
        low = positions.floor()
        part = (positions - low).to(images.dtype).view(-1, 1) if axis == 2 else (positions - low).to(images.dtype)
        first = images.index_select(axis, clamped(low.long(), size))
        second = images.index_select(axis, clamped(low.long() + 1, size))
        images = first * (1 - part) + second * part
    return images


def trail(images: Tensor, radius: float, sigma: float, angle: Tensor) -> Tensor:
    """Return images (N, C, H, W) as they smear when they move, each in its own direction.

    A pixel becomes a mean over 2 * radius + 1 pixels in a line from it, weighted by half a Gaussian of `sigma` pixels.
    `angle` (N,) in radians says where the line goes: 0 right, positive down.
    """
    height, width = images.shape[2:]
    taps = 2 * math.ceil(radius) + 1
    weights = [math.exp(-0.5 * (tap / sigma) ** 2) for tap in range(taps)]
    rows = torch.arange(height, device=images.device).view(1, -1, 1)
    columns = torch.arange(width, device=images.device).view(1, 1, -1)
    down, right = angle.double().sin().view(-1, 1, 1), angle.double().cos().view(-1, 1, 1)
    smeared = torch.zeros_like(images)
    for tap, weight in enumerate(weights):
        row = clamped(rows + (tap * down - 0.5).ceil().long(), height)
        column = clamped(columns + (tap * right - 0.5).ceil().long(), width)
        smeared = smeared + _pick(images, row * width + column) * (weight / sum(weights))
    return smeared
