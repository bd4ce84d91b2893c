"""What an image is after it was stored in a file and read back."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

__all__ = ["as_8bit", "as_16bit", "as_jpeg", "from_16bit"]

_WHITE = 65535


def as_8bit(images: Tensor) -> Tensor:
    """Return images (N, C, H, W) in [0, 1] as a PNG or any other lossless 8-bit file gives them back."""
    return (images * 255).round() / 255


def as_16bit(images: Tensor) -> npt.NDArray[np.uint16]:
    """Return images (N, C, H, W) in [0, 1] as whole numbers up to 65535: what units keep of attacked images."""
    return (images.detach().cpu().double() * _WHITE).round().numpy().astype(np.uint16)


def from_16bit(stored: npt.NDArray[np.uint16], device: torch.device | str = "cpu") -> Tensor:
    """Return float32 images (N, C, H, W) in [0, 1] from what `as_16bit` made of them."""
    return torch.from_numpy(stored.astype(np.float32) / _WHITE).to(device)


def as_jpeg(images: Tensor, quality: int) -> Tensor:
    """Return images (N, C, H, W) in [0, 1], C one or three, as JPEG files of this quality (1 to 95) give them back."""
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    squeezed = np.stack([_through_jpeg(image, quality) for image in pixels]) if len(pixels) else pixels
    return torch.from_numpy(squeezed).to(images.device).permute(0, 3, 1, 2).contiguous().to(images.dtype) / 255


def _through_jpeg(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], quality: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(pixels.shape)
