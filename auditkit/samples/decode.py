"""Image files and Pillow images, decoded to pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from auditkit.samples.pixels import MAX_PIXELS, BadImage, Mask, Pixels, as_pixels

__all__ = ["MAX_PIXELS", "decode_file", "decode_image", "decode_mask"]

# Named one by one: Pillow can also open formats that run other programs (EPS) or touch the network.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_HALF = 128
_TOO_LARGE = f"has more than {MAX_PIXELS // 1_000_000} megapixels, the most that is decoded"


def decode_file(path: Path) -> Pixels:
    """Decode an image file (of an animation, the first picture), upright as its EXIF data say.

    Returns:
        (H, W, C) as in `decode_image`.

    Raises:
        BadImage: Missing, unreadable, empty, truncated, corrupt, of no known format, or too large.
    """
    with _opened(path) as image:
        return decode_image(image)


def decode_mask(path: Path) -> Mask:
    """Decode the picture of a mask, upright as its EXIF data say: bool (H, W), true where it is not zero.

    In a palette, the number of the colour counts. A JPEG leaves faint traces beside what it shows: there, half of the
    full brightness is where the object begins.

    Raises:
        BadImage: As `decode_file`.
    """
    with _opened(path) as image:
        _check_area(image)
        values = np.asarray(ImageOps.exif_transpose(image)) if image.mode == "P" else decode_image(image).max(axis=2)
        mask: Mask = values >= _HALF if image.format == "JPEG" else values > 0
        return mask


def decode_image(image: Image.Image) -> Pixels:
    """Return the pixels of a Pillow image; transparency is dropped, palettes and other colours become RGB.

    Returns:
        (H, W, C), C = 3 (RGB) or 1 (grey): uint8, or for 16-bit and float grey float32 in [0, 1].

    Raises:
        BadImage: Corrupt, too large, or with values of no known range.
    """
    with _reasons():
        _check_area(image)
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "F":
            return as_pixels(np.asarray(upright)[:, :, None])
        if upright.mode.startswith("I"):
            return _from_16_bit(upright)
        if upright.mode in {"1", "L"}:
            return as_pixels(np.asarray(upright.convert("L"))[:, :, None])
        if upright.mode in {"LA", "La"}:
            return as_pixels(np.asarray(upright.convert("LA").getchannel("L"))[:, :, None])
        if upright.mode in {"P", "PA", "RGBa"}:
            upright = upright.convert("RGBA")
        return as_pixels(np.asarray(upright.convert("RGB")))


def _check_area(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise BadImage(_TOO_LARGE)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with _reasons():
        if not path.is_file():
            raise BadImage("is missing or not a regular file")
        if path.stat().st_size == 0:
            raise BadImage("is empty (0 bytes)")
        with Image.open(path, formats=_FORMATS) as image:
            yield image


def _from_16_bit(image: Image.Image) -> Pixels:
    values = np.asarray(image)
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 65535:
        raise BadImage("has 32-bit pixels, whose range is not known; wanted 8 or 16 bits")
    return as_pixels((values.astype(np.float32) / np.float32(65535))[:, :, None])


@contextmanager
def _reasons() -> Iterator[None]:
    try:
        yield
    except BadImage:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(_TOO_LARGE) from error
    except PermissionError as error:
        raise BadImage("cannot be read: permission denied") from error
    except UnidentifiedImageError as error:
        raise BadImage("is no image of a known format (PNG, JPEG, BMP, GIF, TIFF, WebP, PPM)") from error
    # Decoders meet corrupt bytes with nearly every kind of exception there is.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadImage(f"cannot be decoded: {reason}") from error
