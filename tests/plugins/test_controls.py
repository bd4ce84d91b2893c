"""Controls: the same perturbation elsewhere, and nothing but its place is another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditkit import Streams
from auditkit_plugins.controls import moved


def streams(n, seed=0):
    return Streams.of(seed, "test", [f"s{at}" for at in range(n)])


def stickered(n, shape=(3, 9, 7), seed=0):
    """Grey images, and the same with a sticker of 2 x 3 pixels of any colours."""
    clean = torch.full((n, *shape), 0.5)
    attacked = clean.clone()
    attacked[:, :, 1:3, 2:5] = torch.rand(n, shape[0], 2, 3, generator=torch.Generator().manual_seed(seed))
    return clean, attacked


def values_of(images):
    return images.flatten(2).sort(2).values


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from([(1, 5, 9), (3, 8, 8), (3, 4, 12)]))
def test_a_sticker_is_pasted_whole_somewhere_else(seed, shape):
    clean, attacked = stickered(6, shape, seed)
    control = moved(clean, attacked, streams(6, seed))
    assert torch.equal(values_of(control), values_of(attacked))
    assert not any(torch.equal(one, other) for one, other in zip(control, attacked, strict=True))


def test_a_pasted_sticker_covers_what_is_there():
    clean, _ = stickered(4)
    clean += 0.3 * torch.rand(clean.shape, generator=torch.Generator().manual_seed(1))
    attacked = clean.clone()
    attacked[:, :, 0:2, 0:2] = 1.0
    control = moved(clean, attacked, streams(4))
    white = (control == 1).all(1)
    assert (white.flatten(1).sum(1) == 4).all()
    assert torch.equal(control.movedim(1, -1)[~white], clean.movedim(1, -1)[~white])


def test_noise_all_over_the_image_is_moved_added_and_clipped():
    generator = torch.Generator().manual_seed(2)
    clean = 0.3 + 0.4 * torch.rand(5, 3, 6, 8, generator=generator)
    noise = 0.1 * torch.randn(clean.shape, generator=generator)
    control = moved(clean, clean + noise, streams(5))
    for row in range(5):
        fits = [
            torch.allclose(clean[row] + noise[row].roll((down, right), (1, 2)), control[row], atol=1e-6)
            for down in range(6)
            for right in range(8)
        ]
        assert sum(fits) == 1
        assert not fits[0], "an offset of nothing is no control"
    bright = moved(clean, clean + 10 * noise.abs(), streams(5))
    assert bright.max() == 1


def test_half_of_the_pixels_is_still_cut_out_and_one_more_is_added():
    clean = 0.2 + 0.2 * torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    attacked = clean.clone()
    attacked[:, :, :2] = 0.9
    attacked[1, :, 2, 0] = 0.9
    control = moved(clean, attacked, streams(2))
    assert (control == 0.9).flatten(1).sum(1).tolist() == [8, 0]


def test_what_storing_in_16_bits_changes_is_no_perturbation():
    clean, attacked = stickered(3)
    attacked = attacked + 0.5 / 65535
    control = moved(clean, attacked, streams(3))
    assert ((control != clean).any(1).flatten(1).sum(1) <= 6).all()


def test_a_sample_has_the_same_control_in_any_company():
    clean, attacked = stickered(7)
    together = moved(clean, attacked, streams(7))
    for row in range(7):
        alone = Streams.of(0, "test", [f"s{row}"])
        assert torch.equal(moved(clean[row : row + 1], attacked[row : row + 1], alone)[0], together[row])


def test_the_places_are_many_and_none_is_preferred():
    clean = torch.zeros(400, 1, 4, 5)
    attacked = clean.clone()
    attacked[:, :, 1, 2] = 1
    places = moved(clean, attacked, streams(400)).sum(0)[0]
    assert places[1, 2] == 0
    assert places.sum() == 400
    assert places.flatten().sort().values[1] > 5


@pytest.mark.parametrize("n", [0, 1])
def test_no_images_and_images_of_one_pixel_are_no_trouble(n):
    clean = torch.zeros(n, 1, 1, 1)
    assert torch.equal(moved(clean, clean + 1, streams(n)), clean + 1)
    empty = torch.zeros(0, 3, 5, 5)
    assert moved(empty, empty, streams(0)).shape == empty.shape
