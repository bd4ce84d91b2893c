"""Storing: what a file gives back of an image is what Pillow reads from it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from auditkit.stored import as_8bit, as_jpeg


def pictures(n, channels, size=(16, 24), seed=0):
    return torch.rand(n, channels, *size, generator=torch.Generator().manual_seed(seed))


def through_file(image, **how):
    """Return one image (C, H, W) as it comes back from a file that Pillow writes."""
    pixels = (image.permute(1, 2, 0).double().numpy() * 255).round().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).save(file, **how)
    back = np.asarray(Image.open(file), dtype=np.float32).reshape(pixels.shape)
    return torch.from_numpy(back).permute(2, 0, 1) / 255


@pytest.mark.parametrize("channels", [1, 3])
def test_eight_bits_are_what_a_png_gives_back(channels):
    images = pictures(5, channels)
    stored = as_8bit(images)
    assert stored.dtype == torch.float32
    assert torch.equal(stored, torch.stack([through_file(image, format="PNG") for image in images]))
    assert 0 < (stored - images).abs().max() <= 0.5 / 255 + 1e-7


def test_what_is_in_eight_bits_already_stays_as_it_is():
    levels = (torch.arange(256) / 255).view(1, 1, 16, 16)
    assert torch.equal(as_8bit(levels), levels)
    assert torch.equal(as_8bit(as_8bit(pictures(3, 3))), as_8bit(pictures(3, 3)))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [1, 50, 90, 95])
def test_a_jpeg_is_what_pillow_writes_and_reads(channels, quality):
    images = pictures(3, channels)
    stored = as_jpeg(images, quality)
    wanted = torch.stack([through_file(image, format="JPEG", quality=quality) for image in images])
    assert stored.dtype == torch.float32
    assert torch.equal(stored, wanted)
    assert not torch.equal(stored, as_8bit(images))


def test_a_jpeg_of_less_quality_is_further_away():
    smooth = torch.linspace(0, 9, 3 * 16 * 24).view(1, 3, 16, 24).sin() / 2 + 0.5
    away = [float((as_jpeg(smooth, quality) - smooth).abs().mean()) for quality in (95, 50, 5)]
    assert away == sorted(away)
    assert away[0] < 0.5 * away[-1]


def test_rows_are_stored_one_by_one():
    images = pictures(4, 3)
    assert torch.equal(as_jpeg(images, 90)[2:3], as_jpeg(images[2:3], 90))
    assert torch.equal(as_jpeg(images.flip(0), 90), as_jpeg(images, 90).flip(0))


def test_the_images_themselves_are_left_alone():
    images = pictures(2, 3)
    before = images.clone()
    as_8bit(images)
    as_jpeg(images, 90)
    assert torch.equal(images, before)


@pytest.mark.parametrize("channels", [1, 3])
def test_no_images_are_no_fault(channels):
    nothing = pictures(0, channels)
    assert as_8bit(nothing).shape == as_jpeg(nothing, 90).shape == nothing.shape
