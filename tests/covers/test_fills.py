"""Fills: what shows in a window, from the image itself or from nothing at all."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from auditkit.covers import FILLS, Windows, filling

WINDOWS = Windows.grid(12, 20, (3, 5), (3, 5))


def pictures(n=9, channels=3, height=12, width=20):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(n))


def test_the_mean_is_that_of_each_channel_of_each_image():
    images = pictures()
    got = filling("mean", WINDOWS)(images)
    assert got.shape == (9, 3, 1, 1)
    np.testing.assert_allclose(got[:, :, 0, 0], images.double().mean((2, 3)), rtol=1e-6)


def test_the_mean_of_many_pixels_is_rounded_once():
    """A sum that rounds on the way depends on how many threads share it."""
    images = pictures(3, 3, 300, 200)
    got = filling("mean", Windows.grid(300, 200, (30, 30), (30, 30)))(images)
    wanted = [math.fsum(channel.flatten().tolist()) / 60_000 for image in images for channel in image]
    assert got.flatten().tolist() == np.float32(wanted).tolist()


@pytest.mark.parametrize(("fill", "value"), [("grey", 0.5), ("black", 0.0)])
def test_a_plain_fill_is_one_colour(fill, value):
    assert (filling(fill, WINDOWS)(pictures()).expand(9, 3, 12, 20) == value).all()


def test_the_blur_is_gaussian_with_the_windows_size_and_looks_at_no_pixel_outside():
    images = pictures()
    got = filling("blur", WINDOWS)(images)
    blurred, weights = (
        ndimage.gaussian_filter(array, (0, 0, 3, 5), mode="constant", truncate=50)
        for array in (images.double().numpy(), np.ones(images.shape))
    )
    np.testing.assert_allclose(got, blurred / weights, rtol=1e-5)


def test_the_blur_leaves_a_plain_image_as_it_is():
    plain = torch.full((2, 1, 12, 20), 0.3)
    torch.testing.assert_close(filling("blur", WINDOWS)(plain), plain)


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_fill_of_an_image_does_not_depend_on_others_and_fits_it(fill, channels):
    images = pictures(channels=channels)
    fills = filling(fill, WINDOWS)
    together = fills(images).expand_as(images)
    for row in range(len(images)):
        assert torch.equal(fills(images[row : row + 1]).expand(1, channels, 12, 20)[0], together[row])
    assert torch.equal(fills(images.flip(0)).expand_as(images).flip(0), together)
    assert together.dtype == torch.float32
    assert 0 <= together.min() <= together.max() <= 1
