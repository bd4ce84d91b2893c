"""The parts of a camera against closed forms and scipy: geometry, focus and light."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from auditkit_plugins.camera.focus import blurred, rescaled
from auditkit_plugins.camera.geometry import pixels, placed, seen, through_lens, tilted
from auditkit_plugins.camera.light import contrasted, exposed, noisy, recoloured, toned

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(3, 2, 9, 14, generator=GENERATOR)
NOTHING = torch.zeros(3)
ONCE = torch.ones(3)


def each(*values):
    return torch.tensor(values)


def test_a_camera_that_stands_right_sees_the_image_itself():
    points = placed(tilted(through_lens(pixels(IMAGES), NOTHING), NOTHING, NOTHING), NOTHING, NOTHING, NOTHING, ONCE)
    assert torch.equal(seen(IMAGES, points), IMAGES)


def test_a_shift_moves_the_image_down_and_right_and_repeats_the_edge():
    points = placed(pixels(IMAGES), NOTHING, each(2.0, 0.0, -1.0), each(0.0, 3.0, 0.0), ONCE)
    got = seen(IMAGES, points)
    assert torch.equal(got[0, :, 2:], IMAGES[0, :, :-2])
    assert torch.equal(got[0, :, 0], IMAGES[0, :, 0])
    assert torch.equal(got[1, :, :, 3:], IMAGES[1, :, :, :-3])
    assert torch.equal(got[2, :, :-1], IMAGES[2, :, 1:])


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_quarter_turn_is_counter_clockwise(quarters):
    square = IMAGES[..., :9]
    points = placed(pixels(square), ONCE * (quarters * math.pi / 2), NOTHING, NOTHING, ONCE)
    torch.testing.assert_close(seen(square, points), square.rot90(quarters, (2, 3)), atol=1e-5, rtol=0)


def test_an_enlargement_shows_the_middle():
    got = seen(IMAGES, placed(pixels(IMAGES), NOTHING, NOTHING, NOTHING, each(1.0, 2.0, 0.5)))
    rows, columns = np.meshgrid((np.arange(9) - 4) / 2 + 4, (np.arange(14) - 6.5) / 2 + 6.5, indexing="ij")
    wanted = [ndimage.map_coordinates(channel, [rows, columns], order=1) for channel in IMAGES[1].numpy()]
    np.testing.assert_allclose(got[1].numpy(), wanted, atol=1e-5)


def test_a_lens_moves_the_corner_most_and_the_middle_not_at_all():
    points = through_lens(pixels(IMAGES), each(0.2, -0.1, 0.0))
    down, right = points
    assert down[:, 4].eq(0).all()
    np.testing.assert_allclose(down[:, 0, 0].numpy(), [-4.8, -3.6, -4.0], rtol=1e-6)
    np.testing.assert_allclose(right[:, 0, 0].numpy(), [-7.8, -5.85, -6.5], rtol=1e-6)
    halfway = 1 + 0.2 * (4**2 + 0.5**2) / (4**2 + 6.5**2)
    assert float(down[0, 0, 6]) == pytest.approx(-4 * halfway)


def test_a_tilted_plane_is_larger_on_one_side_and_straight_lines_stay_straight():
    down, right = tilted(pixels(IMAGES), each(0.2, 0.0, 0.1), each(0.0, -0.5, 0.1))
    np.testing.assert_allclose(right[0, -1].numpy(), (np.arange(14) - 6.5) / 1.2, rtol=1e-6)
    np.testing.assert_allclose(right[0, 0].numpy(), (np.arange(14) - 6.5) / 0.8, rtol=1e-6)
    np.testing.assert_allclose(down[1, :, -1].numpy(), (np.arange(9) - 4) / 0.5, rtol=1e-6)
    x, y = right[2].double(), down[2].double()
    along = torch.stack([x[3] - x[3, :1], y[3] - y[3, :1]])
    torch.testing.assert_close(along[0] * along[1, -1], along[1] * along[0, -1], atol=1e-4, rtol=0)


def test_blur_is_scipys_gaussian_with_a_width_for_each_image():
    sigmas = (0.4, 1.0, 2.0)
    got = blurred(IMAGES, each(*sigmas), 2.0)
    for image, channels, sigma in zip(got, IMAGES.double().numpy(), sigmas, strict=True):
        wanted = ndimage.gaussian_filter(channels, sigma, radius=5, mode="nearest", axes=(1, 2))
        np.testing.assert_allclose(image.numpy(), wanted, atol=1e-6)


def test_no_blur_and_no_loss_of_resolution_leave_the_image():
    assert torch.equal(blurred(IMAGES, NOTHING, 2.0), IMAGES)
    assert torch.equal(rescaled(IMAGES, ONCE, 0.5), IMAGES)


def test_lost_resolution_keeps_what_is_smooth_and_loses_what_is_fine():
    ramp = torch.linspace(0.2, 0.8, 32).view(1, 1, 1, -1).expand(1, 1, 32, 32).contiguous()
    got = rescaled(ramp, each(0.5), 0.5)
    torch.testing.assert_close(got[..., 4:-4], ramp[..., 4:-4], atol=1e-5, rtol=0)
    board = ((torch.arange(32) % 2).float().view(1, 1, 1, -1)).expand(1, 1, 32, 32).contiguous()
    assert float((rescaled(board, each(0.5), 0.5)[..., 4:-4] - 0.5).abs().max()) < 0.2


def test_light_and_contrast_are_what_they_are_called():
    grey = torch.full((3, 1, 2, 2), 0.4)
    assert exposed(grey, each(0.5, 2.0, 4.0))[:, 0, 0, 0].tolist() == pytest.approx([0.2, 0.8, 1.0])
    assert contrasted(grey, each(0.5, 1.0, 2.0))[:, 0, 0, 0].tolist() == pytest.approx([0.45, 0.4, 0.3])
    assert toned(grey, each(-0.5, 0.0, 0.5))[:, 0, 0, 0].tolist() == pytest.approx([0.28, 0.4, 0.52])
    ends = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    assert torch.equal(toned(ends, each(0.9)), ends)


def test_a_third_of_the_circle_swaps_the_colours_and_grey_has_none():
    images = torch.rand(1, 3, 4, 4, generator=GENERATOR)
    third = recoloured(images, each(2 * math.pi / 3))
    assert min(float((third - images.roll(shift, 1)).abs().max()) for shift in (1, -1)) < 1e-6
    grey = images[:, :1].expand(-1, 3, -1, -1)
    torch.testing.assert_close(recoloured(grey, each(1.0)), grey)
    assert torch.equal(recoloured(images[:, :1], each(1.0)), images[:, :1])
    few = 0.4 + 0.2 * images
    torch.testing.assert_close(recoloured(few, each(0.7)).sum(1), few.sum(1))


def test_noise_of_the_sensor_grows_with_the_light():
    normal = torch.randn(2, 1, 200, 200, generator=GENERATOR)
    images = torch.tensor([0.2, 0.8]).view(2, 1, 1, 1).expand_as(normal)
    change = noisy(images, normal, each(0.01, 0.01), each(0.03, 0.03)) - images
    wanted = [math.sqrt(0.01**2 + 0.03**2 * light) for light in (0.2, 0.8)]
    assert change.flatten(1).std(1).tolist() == pytest.approx(wanted, rel=0.02)
    assert torch.equal(noisy(images, normal, NOTHING[:2], NOTHING[:2]).round(decimals=4), images)
