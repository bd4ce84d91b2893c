"""Every corruption: what all have in common, and what each is by definition."""

from __future__ import annotations

import colorsys
import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats

from auditkit import Streams
from auditkit.demo import IMAGES
from auditkit_plugins.distortions import DISTORTIONS, NEEDS_COLOUR
from auditkit_plugins.distortions.blur import disk
from auditkit_plugins.distortions.weather import plasma

NAMES = list(DISTORTIONS)
RANDOM = {"gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "snow", "fog", "elastic"}
# Blur, resampling and the like: a plain image has nothing that they could change.
KEEPS_PLAIN = ("defocus_blur", "motion_blur", "zoom_blur", "gaussian_blur", "contrast", "elastic", "pixelate")
SEVERITIES = (1, 2, 3, 4, 5)


def streams(n, seed=0):
    return Streams.of(seed, "test", [f"sample-{row}" for row in range(n)])


def signs(n, side=32):
    with np.load(IMAGES) as demo:
        images = torch.from_numpy(demo["x"][:n]).permute(0, 3, 1, 2) / 255
    return torch.nn.functional.interpolate(images, (side, side), mode="bilinear") if side != 32 else images


def plain(value, n=1, shape=(3, 32, 32)):
    return torch.full((n, *shape), value)


def on_grey_levels(*shape):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, shape, generator=generator) / 255


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 8, 8), (3, 13, 9), (1, 28, 28), (3, 50, 40)])
def test_any_size_and_both_numbers_of_channels_give_images_of_the_same_form(name, shape):
    images = torch.cat([on_grey_levels(2, *shape), plain(0.0, 1, shape), plain(1.0, 1, shape)])
    before = images.clone()
    for severity in SEVERITIES:
        corrupted = DISTORTIONS[name](images, severity, streams(4))
        assert corrupted.shape == images.shape
        assert corrupted.dtype == torch.float32
        assert corrupted.isfinite().all()
        assert float(corrupted.min()) >= 0
        assert float(corrupted.max()) <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 13, 9), (1, 9, 11)])
def test_an_image_is_corrupted_to_the_same_bits_in_any_batch(name, shape):
    images, rng = on_grey_levels(11, *shape), streams(11)
    for severity in (2, 5):
        together = DISTORTIONS[name](images, severity, rng)
        alone = [DISTORTIONS[name](images[i : i + 1], severity, Streams(rng.keys[i : i + 1])) for i in range(11)]
        assert torch.equal(together, torch.cat(alone))
        order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
        assert torch.equal(together[order], DISTORTIONS[name](images[order], severity, Streams(rng.keys[order])))


@pytest.mark.parametrize("name", NAMES)
def test_samples_and_seeds_have_draws_of_their_own_where_there_are_any(name):
    images = signs(1).expand(2, -1, -1, -1)
    first, second = DISTORTIONS[name](images, 3, streams(2))
    other_seed = DISTORTIONS[name](images, 3, streams(2, seed=1))[0]
    assert torch.equal(first, second) == (name not in RANDOM)
    assert torch.equal(first, other_seed) == (name not in RANDOM)


@pytest.mark.parametrize("side", [32, 96])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("saturate", "elastic")])
def test_a_higher_severity_changes_more(name, side):
    """Saturate and elastic change their kind between severities, as published."""
    images, rng = signs(12, side), streams(12)
    changes = [float((DISTORTIONS[name](images, severity, rng) - images).square().mean()) for severity in SEVERITIES]
    assert changes[0] > 0
    # The trails of motion blur at severities 3 and 4 differ in their faint ends only.
    assert all(more > 0.999 * less for less, more in itertools.pairwise(changes))
    assert changes[4] > 1.5 * changes[0]


def test_saturate_grows_on_either_side_of_no_change():
    images = signs(12)
    first, second, third, fourth, fifth = (
        float((DISTORTIONS["saturate"](images, severity, streams(12)) - images).square().mean())
        for severity in SEVERITIES
    )
    assert 0 < first < second
    assert 0 < third < fourth < fifth


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", KEEPS_PLAIN)
def test_a_plain_image_stays_as_it_is(name, value):
    for severity in SEVERITIES:
        corrupted = DISTORTIONS[name](plain(value), severity, streams(1))
        torch.testing.assert_close(corrupted, plain(value), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", NEEDS_COLOUR)
def test_what_needs_colour_does_nothing_to_grey(name):
    for images in (on_grey_levels(3, 1, 9, 9), on_grey_levels(3, 1, 9, 9).expand(3, 3, 9, 9)):
        for severity in SEVERITIES:
            assert torch.equal(DISTORTIONS[name](images, severity, streams(3)), images)


@pytest.mark.parametrize(("severity", "deviation"), [(1, 0.04), (3, 0.08), (5, 0.10)])
def test_gaussian_noise_has_its_published_deviation(severity, deviation):
    change = DISTORTIONS["gaussian_noise"](plain(0.5, 8), severity, streams(8)) - 0.5
    assert float(change.mean()) == pytest.approx(0, abs=deviation / 50)
    assert float(change.std()) == pytest.approx(deviation, rel=0.02)


@pytest.mark.parametrize(("severity", "photons"), [(1, 500), (3, 100), (5, 50)])
def test_shot_noise_is_the_inverse_of_the_poisson_distribution(severity, photons):
    images, rng = on_grey_levels(3, 3, 32, 32), streams(3)
    got = DISTORTIONS["shot_noise"](images, severity, rng).double() * photons
    draws = rng.uniform(0, (3, 32, 32)).double().numpy()
    wanted = stats.poisson.ppf(draws, images.double().numpy() * photons)
    np.testing.assert_allclose(got.numpy(), np.minimum(wanted, photons), atol=1e-4)


def test_shot_noise_leaves_black_black():
    assert torch.equal(DISTORTIONS["shot_noise"](plain(0.0), 5, streams(1)), plain(0.0))


@pytest.mark.parametrize(("severity", "share"), [(1, 0.01), (5, 0.07)])
def test_impulse_noise_sets_as_many_values_to_black_as_to_white(severity, share):
    corrupted = DISTORTIONS["impulse_noise"](plain(0.5, 32), severity, streams(32))
    assert float((corrupted == 0).float().mean()) == pytest.approx(share / 2, rel=0.1)
    assert float((corrupted == 1).float().mean()) == pytest.approx(share / 2, rel=0.1)
    assert float((corrupted == 0.5).float().mean()) == pytest.approx(1 - share, rel=0.01)


@pytest.mark.parametrize(("radius", "pixels"), [(0.3, 1), (1, 5), (3, 29), (10, 317)])
def test_a_disk_sums_to_one_over_the_pixels_inside_and_a_soft_rim(radius, pixels):
    sharp, soft = disk(radius, 1e-3), disk(radius, 0.5)
    assert float(sharp.sum()) == pytest.approx(1)
    assert float(soft.sum()) == pytest.approx(1)
    assert int((sharp > 0).sum()) == pixels
    assert int((soft > 0).sum()) > pixels
    for kernel in (sharp, soft):
        torch.testing.assert_close(kernel, kernel.T)
        torch.testing.assert_close(kernel, kernel.flip(0))


@pytest.mark.parametrize("name", ["defocus_blur", "gaussian_blur", "motion_blur"])
def test_blur_keeps_the_light_of_a_dot_and_spreads_it(name):
    dot = torch.zeros(1, 3, 33, 33)
    dot[:, :, 16, 16] = 1
    blurred = DISTORTIONS[name](dot, 5, streams(1))
    assert float(blurred.amax()) < 0.5
    assert float(blurred.sum()) == pytest.approx(3, rel=1e-5)


def test_zoom_blur_leaves_the_middle_sharp_and_pulls_the_rest_outwards():
    dots = torch.zeros(1, 1, 33, 33)
    dots[0, 0, 16, 16] = dots[0, 0, 16, 26] = 1
    blurred = DISTORTIONS["zoom_blur"](dots, 5, streams(1))[0, 0]
    assert float(blurred[16, 16]) == pytest.approx(1)
    assert float(blurred[16, 26]) < 0.4
    assert (blurred[16, 27:29] > 0.05).all()
    assert float(blurred[16, 20:25].max()) == 0


def test_zoom_blur_is_symmetric_about_the_middle():
    images = on_grey_levels(2, 3, 32, 32)
    blurred = DISTORTIONS["zoom_blur"](images, 3, streams(2))
    mirrored = DISTORTIONS["zoom_blur"](images.flip(2, 3), 3, streams(2)).flip(2, 3)
    torch.testing.assert_close(blurred, mirrored, atol=1e-5, rtol=0)


def test_motion_blur_smears_along_lines_within_45_degrees_of_the_horizontal():
    dot = torch.zeros(50, 1, 41, 41)
    dot[:, :, 20, 20] = 1
    blurred = DISTORTIONS["motion_blur"](dot, 5, streams(50))
    reached = (blurred > 0.01).nonzero()[:, 2:] - 20
    assert (reached[:, 0].abs() <= reached[:, 1].abs() + 1).all()
    assert (reached[:, 0] > 2).any()
    assert (reached[:, 0] < -2).any()


def test_a_plasma_fills_its_range_and_has_no_border():
    heights = plasma(streams(20), 64, 2.0)
    assert torch.equal(heights.amin((1, 2)), torch.zeros(20))
    assert torch.equal(heights.amax((1, 2)), torch.ones(20))
    across_the_border = (heights[:, :, 0] - heights[:, :, -1]).abs().mean()
    between_neighbours = (heights[:, :, 1:] - heights[:, :, :-1]).abs().mean()
    assert float(across_the_border) == pytest.approx(float(between_neighbours), rel=0.25)


def test_a_plasma_that_decays_slowly_is_rough():
    rough, smooth = (plasma(streams(20), 64, decay).diff(dim=1).abs().mean() for decay in (1.4, 3.0))
    assert rough > 2 * smooth


def test_a_plasma_is_midpoint_displacement_point_by_point():
    size, decay, rng = 8, 1.6, streams(1)
    heights = np.zeros((size, size))
    distance, roughness, draw = size, 1.0, 0
    while distance > 1:
        half, cells = distance // 2, size // distance
        for top, left in ((half, half), (0, half), (half, 0)):
            random = (2 * rng.uniform(draw, (cells, cells)) - 1)[0].numpy() * roughness
            ways = ((1, 1), (1, -1), (-1, 1), (-1, -1)) if top == left else ((1, 0), (-1, 0), (0, 1), (0, -1))
            for i, j in itertools.product(range(cells), repeat=2):
                row, column = top + i * distance, left + j * distance
                near = [heights[(row + half * a) % size, (column + half * b) % size] for a, b in ways]
                heights[row, column] = sum(near) / 4 + random[i, j]
            draw += 1
        distance, roughness = half, roughness / decay**2
    wanted = (heights - heights.min()) / (heights.max() - heights.min())
    np.testing.assert_allclose(plasma(rng, size, decay)[0].numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize(("severity", "haze"), [(1, 0.2), (5, 1.5)])
def test_fog_adds_its_plasma_and_keeps_the_brightest_value_an_upper_bound(severity, haze):
    decay = {1: 3.0, 5: 1.75}[severity]
    images, rng = 0.6 * on_grey_levels(4, 3, 32, 32), streams(4)
    foggy = DISTORTIONS["fog"](images, severity, rng)
    brightest = images.amax((1, 2, 3), keepdim=True)
    wanted = (images + haze * plasma(rng, 32, decay).unsqueeze(1)) * brightest / (brightest + haze)
    torch.testing.assert_close(foggy, wanted)
    assert (foggy <= brightest + 1e-6).all()


def test_snow_darkens_nothing():
    images = on_grey_levels(4, 3, 32, 32)
    for severity in SEVERITIES:
        snowy = DISTORTIONS["snow"](images, severity, streams(4))
        assert (snowy >= images - 1e-6).all()
        assert (snowy > images + 0.2).any()


def test_snow_falls_in_streaks_that_stand_upright_and_is_the_same_upside_down():
    snowy = DISTORTIONS["snow"](plain(0.2, 40), 2, streams(40))
    torch.testing.assert_close(snowy, snowy.flip(2, 3))
    assert snowy.diff(dim=2).abs().mean() < 0.8 * snowy.diff(dim=3).abs().mean()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_raises_the_value_of_hsv(severity):
    light = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    images = on_grey_levels(1, 3, 8, 8)
    images[0, :, 0, 0] = 0
    got = DISTORTIONS["brightness"](images, severity, streams(1))
    for pixel, changed in zip(images[0].flatten(1).T, got[0].flatten(1).T, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel.tolist())
        wanted = colorsys.hsv_to_rgb(hue, saturation, min(value + light, 1))
        assert changed.tolist() == pytest.approx(wanted, abs=1e-5)


def test_brightness_of_a_grey_image_is_addition():
    images = on_grey_levels(2, 1, 9, 9)
    got = DISTORTIONS["brightness"](images, 4, streams(2))
    torch.testing.assert_close(got, (images + 0.2).clamp(max=1))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_saturate_changes_the_saturation_of_hsv(severity):
    factor, more = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[severity - 1]
    images = on_grey_levels(1, 3, 8, 8)
    got = DISTORTIONS["saturate"](images, severity, streams(1))
    for pixel, changed in zip(images[0].flatten(1).T, got[0].flatten(1).T, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel.tolist())
        wanted = colorsys.hsv_to_rgb(hue, min(saturation * factor + more, 1), value)
        assert changed.tolist() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(("severity", "factor"), [(1, 0.75), (5, 0.15)])
def test_contrast_keeps_the_mean_of_each_channel_and_scales_what_differs_from_it(severity, factor):
    images = on_grey_levels(4, 3, 16, 16)
    got = DISTORTIONS["contrast"](images, severity, streams(4))
    mean = images.mean((2, 3), keepdim=True)
    torch.testing.assert_close(got.mean((2, 3), keepdim=True), mean)
    torch.testing.assert_close(got - mean, factor * (images - mean), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("severity", "share"), [(1, 0.95), (3, 0.85), (5, 0.65)])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 20)])
def test_pixelate_is_pillows_box_there_and_back(severity, share, shape):
    images = on_grey_levels(2, *shape)
    got = DISTORTIONS["pixelate"](images, severity, streams(2))
    height, width = shape[1:]
    for image, pixelated in zip(images, got, strict=True):
        picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy())
        small = picture.resize((int(width * share), int(height * share)), Image.Resampling.BOX)
        wanted = np.asarray(small.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / 255
        np.testing.assert_allclose(pixelated.permute(1, 2, 0).squeeze(2).numpy(), wanted, atol=1.01 / 255)


@pytest.mark.parametrize(("severity", "quality"), [(1, 80), (5, 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows(severity, quality, channels):
    images = signs(3)[:, :channels]
    got = DISTORTIONS["jpeg"](images, severity, streams(3))
    for image, squeezed in zip(images, got, strict=True):
        file = io.BytesIO()
        pixels = (image * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        wanted = np.asarray(Image.open(file))
        np.testing.assert_array_equal((squeezed * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy(), wanted)


def test_elastic_at_severity_1_is_an_affine_map():
    """Without bending, a ramp stays a ramp: second differences vanish inside the image."""
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    ramp = (0.3 + 0.008 * rows + 0.005 * columns).expand(5, 1, 32, 32)
    pulled = DISTORTIONS["elastic"](ramp, 1, streams(5))[:, :, 8:24, 8:24]
    assert float(pulled.diff(n=2, dim=2).abs().max()) < 1e-5
    assert float(pulled.diff(n=2, dim=3).abs().max()) < 1e-5
    assert float((pulled - ramp[:, :, 8:24, 8:24]).abs().max()) > 1e-3
    bent = DISTORTIONS["elastic"](ramp, 5, streams(5))[:, :, 8:24, 8:24]
    assert float(bent.diff(n=2, dim=2).abs().max()) > 1e-4


def test_elastic_at_severity_1_takes_three_corners_to_where_it_says():
    images, rng = on_grey_levels(3, 1, 32, 32), streams(3)
    pulled = DISTORTIONS["elastic"](images, 1, rng)
    moved = (2 * rng.uniform(0, (3, 2)) - 1).double().numpy() * 0.08 * 32
    corners = np.array([[26.0, 26.0], [6.0, 26.0], [6.0, 6.0]])
    pixels = np.stack(np.meshgrid(np.arange(32.0), np.arange(32.0), np.ones(1), indexing="ij"), -1).reshape(-1, 3)
    for image, got, offset in zip(images, pulled, moved, strict=True):
        back = np.linalg.solve(np.column_stack([corners + offset, np.ones(3)]), corners)
        wanted = ndimage.map_coordinates(image[0].numpy(), (pixels @ back).T, order=1, mode="mirror")
        np.testing.assert_allclose(got[0].numpy().ravel(), wanted, atol=1e-4)


def test_elastic_moves_by_no_more_than_it_says():
    """At severity 1 corners of the square move by 0.08 of the side, so its middle moves by less than twice that."""
    rows = (torch.arange(32.0) / 32).view(1, 1, 32, 1).expand(40, 1, 32, 32)
    moved = (DISTORTIONS["elastic"](rows, 1, streams(40)) - rows)[:, 0, 16, 16].abs()
    assert 0.01 < float(moved.max()) < 0.16
