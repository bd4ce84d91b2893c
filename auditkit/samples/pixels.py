"""The pixels of one image: what is accepted, and how they become channels, height, width in [0, 1]."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

__all__ = ["MAX_PIXELS", "BadImage", "Mask", "Pixels", "as_pixels", "fit", "fit_mask", "to_numpy"]

Pixels = NDArray[np.uint8] | NDArray[np.float32]
Mask = NDArray[np.bool_]

MAX_PIXELS = 64_000_000
"""Of one image or mask: whatever says that it has more is not decoded."""

# What float32 resizing and colour conversion leave beside the range.
_ROUNDING = 1e-5
# ITU-R 601, the weights Pillow uses for 8-bit images.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


class BadImage(Exception):
    """One image cannot be worked with; the message is the reason, without the name of the image."""


def to_numpy(array: Tensor | NDArray[Any]) -> NDArray[Any]:
    """Return a tensor of any device and dtype as an array of the same shape; an array as it is.

    Raises:
        ValueError: A nested sequence was given instead, and it is ragged.
    """
    if not isinstance(array, Tensor):
        return np.asarray(array)
    tensor = array.detach().cpu()
    # numpy has no bfloat16.
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def as_pixels(array: NDArray[Any]) -> Pixels:
    """Check the values of an image (H, W, C): uint8, or floats in [0, 1], which become float32.

    Raises:
        BadImage: No pixels, another dtype, NaN, infinity, or floats outside [0, 1].
    """
    if array.size == 0:
        raise BadImage(f"has no pixels (shape {array.shape})")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise BadImage(f"has pixels of type {array.dtype}, wanted uint8 or floats in [0, 1]")
    low, high = float(array.min()), float(array.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise BadImage("holds NaN or infinite pixels")
    if low < -_ROUNDING or high > 1.0 + _ROUNDING:
        remedy = "give 0 to 255 as uint8, and leave normalisation to the model"
        raise BadImage(f"has pixels from {low:.4g} to {high:.4g}, wanted floats in [0, 1]: {remedy}")
    return array.astype(np.float32).clip(0.0, 1.0)


def fit(pixels: Pixels, channels: int, size: tuple[int, int] | None) -> NDArray[np.float32]:
    """Turn an image into the form models take.

    Args:
        pixels: (H, W, C), C = 1 or 3, uint8 or float32 in [0, 1].
        channels: 3 for RGB, 1 for grey.
        size: Height and width to resize to (bilinear, smoothed where it shrinks); None keeps them.

    Returns:
        float32 (channels, height, width) in [0, 1].
    """
    if channels < pixels.shape[2]:
        pixels = _grey(pixels)
    if size is not None and pixels.shape[:2] != size:
        pixels = _resized(pixels, size)
    values = pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels
    return np.broadcast_to(values.transpose(2, 0, 1), (channels, *values.shape[:2])).astype(np.float32)


def fit_mask(mask: Mask, size: tuple[int, int] | None) -> Mask:
    """Resize a bool mask (H, W) to `size`, each pixel taking the value of the nearest."""
    if size is None or mask.shape == size:
        return mask
    grown = Image.fromarray(mask.astype(np.uint8)).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(grown).astype(np.bool_)


def _grey(pixels: Pixels) -> Pixels:
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
    luma: NDArray[np.float32] = (pixels * _LUMA).sum(axis=2, keepdims=True, dtype=np.float32)
    return luma.clip(0.0, 1.0)


def _resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return np.asarray(_resized_image(Image.fromarray(pixels), size))
    planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(pixels, 2, 0)]
    resized = np.stack([np.asarray(_resized_image(plane, size)) for plane in planes], axis=2)
    return resized if resized.dtype == np.uint8 else resized.clip(0.0, 1.0)


def _resized_image(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    height, width = size
    return image.resize((width, height), Image.Resampling.BILINEAR)
