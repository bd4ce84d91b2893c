"""The parts of corruptions, against scipy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from auditkit_plugins.distortions.filters import clamped, convolve, mirrored, reflected, sample, smooth, trail, zoom
from auditkit_plugins.distortions.strength import Strength

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(3, 2, 9, 14, generator=GENERATOR)
SCIPY_MODES = {clamped: "nearest", mirrored: "reflect", reflected: "mirror"}


@pytest.mark.parametrize(("edge", "mode"), [(clamped, "edge"), (mirrored, "symmetric"), (reflected, "reflect")])
@pytest.mark.parametrize("size", [2, 5])
def test_an_edge_goes_on_as_numpy_pads_it_however_far(edge, mode, size):
    positions = torch.arange(-3 * size, 4 * size)
    wanted = np.pad(np.arange(size), 3 * size, mode=mode)
    np.testing.assert_array_equal(edge(positions, size).numpy(), wanted)


@pytest.mark.parametrize("edge", SCIPY_MODES)
def test_convolution_is_scipys(edge):
    kernel = torch.rand(5, 3, generator=GENERATOR, dtype=torch.float64)
    kernel = kernel + kernel.flip(0, 1)
    got = convolve(IMAGES, kernel, edge)
    wanted = ndimage.convolve(IMAGES.numpy(), kernel.numpy()[None, None], mode=SCIPY_MODES[edge])
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5)


@pytest.mark.parametrize(("sigma", "cut"), [(0.4, 4.0), (1.3, 4.0), (6.0, 4.0), (20.0, 3.0)])
def test_smoothing_is_scipys_also_where_the_gaussian_is_wider_than_the_image(sigma, cut):
    got = smooth(IMAGES, sigma, cut, mirrored)
    wanted = ndimage.gaussian_filter(IMAGES.double().numpy(), sigma, truncate=cut, mode="reflect", axes=(2, 3))
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-5)


def test_a_gaussian_too_small_to_reach_a_neighbour_changes_nothing():
    assert torch.equal(smooth(IMAGES, 0.0, 4.0, clamped), IMAGES)


@pytest.mark.parametrize("edge", [mirrored, reflected])
def test_sampling_is_scipys_inside_and_outside_the_image(edge):
    rows = 30 * torch.rand(3, 9, 14, generator=GENERATOR) - 10
    columns = 40 * torch.rand(3, 9, 14, generator=GENERATOR) - 10
    got = sample(IMAGES, rows, columns, edge)
    for image, channels in enumerate(IMAGES.numpy()):
        places = np.stack([rows[image].numpy(), columns[image].numpy()])
        wanted = [ndimage.map_coordinates(c, places, order=1, mode=SCIPY_MODES[edge]) for c in channels]
        np.testing.assert_allclose(got[image].numpy(), wanted, atol=2e-5)


@pytest.mark.parametrize("factor", [1.0, 1.1, 2.5])
def test_zooming_enlarges_the_middle(factor):
    got = zoom(IMAGES, factor)
    rows, columns = np.meshgrid(4 + (np.arange(9) - 4) / factor, 6.5 + (np.arange(14) - 6.5) / factor, indexing="ij")
    wanted = [[ndimage.map_coordinates(c, [rows, columns], order=1) for c in image] for image in IMAGES.numpy()]
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-5)


def test_a_trail_is_half_a_gaussian_in_its_own_direction_for_each_image():
    dot = torch.zeros(4, 1, 15, 15)
    dot[:, :, 7, 7] = 1
    smeared = trail(dot, 2, 1.5, torch.tensor([0.0, math.pi / 2, math.pi, -math.pi / 2]))
    weights = torch.exp(-0.5 * (torch.arange(5) / 1.5) ** 2)
    weights = weights / weights.sum()
    # A pixel takes from where the line leads, so the dot appears on the other side.
    wanted = torch.zeros_like(dot)
    wanted[0, 0, 7, 3:8] = weights.flip(0)
    wanted[1, 0, 3:8, 7] = weights.flip(0)
    wanted[2, 0, 7, 7:12] = weights
    wanted[3, 0, 7:12, 7] = weights
    torch.testing.assert_close(smeared, wanted)


def square(side):
    return torch.zeros(1, 3, side, side + 5)


def test_a_strength_is_the_published_number_at_the_published_sizes():
    strength = Strength((1, 2, 3, 4, 5), (10, 20, 30, 40, 50), is_length=True)
    assert [strength.at(severity, square(32)) for severity in range(1, 6)] == pytest.approx([1, 2, 3, 4, 5])
    assert [strength.at(severity, square(224)) for severity in range(1, 6)] == pytest.approx([10, 20, 30, 40, 50])


def test_between_the_sizes_a_strength_is_interpolated_over_the_logarithm_of_the_shorter_side():
    middle = round(math.sqrt(32 * 224))
    assert Strength((1,) * 5, (100,) * 5).at(1, square(middle)) == pytest.approx(10, rel=0.01)
    assert Strength((0,) * 5, (100,) * 5).at(1, square(middle)) == pytest.approx(50, rel=0.01)


def test_beyond_the_sizes_only_lengths_change_and_only_upwards():
    for is_length, wanted in ((False, 8), (True, 16)):
        strength = Strength((2,) * 5, (8,) * 5, is_length=is_length)
        assert strength.at(3, square(448)) == pytest.approx(wanted)
        assert strength.at(3, square(8)) == pytest.approx(2)


def test_at_64_pixels_noise_is_about_that_of_tiny_imagenet_c():
    """What its authors chose for a size that the interpolation does not know."""
    from auditkit_plugins.distortions import noise

    for strength, published in (
        (noise._DEVIATION, (0.04, 0.08, 0.12, 0.15, 0.18)),
        (noise._PHOTONS, (250, 100, 50, 30, 15)),
    ):
        got = [strength.at(severity, square(64)) for severity in range(1, 6)]
        np.testing.assert_allclose(got, published, rtol=0.3)
