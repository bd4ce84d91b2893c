"""Deletion and insertion: the right pixels in the right order, and areas that are known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auditkit_plugins.faithfulness import area_under, curve, elsewhere, faithfulness, places, replaced


def lots(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def brightness(images, rows):
    """A score that is the share of white in black-and-white images."""
    return images.double().mean((1, 2, 3))


def test_pixels_are_sorted_by_the_map_the_largest_first():
    heat = torch.tensor([[[0.1, 0.9], [0.5, 0.7]]])
    assert places(heat, lots(1, 2, 2)).tolist() == [[[3, 0], [2, 1]]]


@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 6))
def test_every_pixel_has_one_place_and_equal_ones_have_those_of_their_lots(seed, height, width):
    heat = (lots(2, height, width, seed=seed) * 3).floor()
    drawn = lots(2, height, width, seed=seed + 1)
    order = places(heat, drawn)
    for row in range(2):
        ranked = sorted(
            range(height * width), key=lambda at: (-float(heat[row].flatten()[at]), float(drawn[row].flatten()[at]))
        )
        assert order[row].flatten()[ranked].tolist() == list(range(height * width))


def test_a_map_of_zeros_has_the_random_order_itself():
    drawn = lots(3, 4, 5)
    assert torch.equal(places(torch.zeros(3, 4, 5), drawn), drawn.flatten(1).argsort(1).argsort(1).view(3, 4, 5))


def test_the_first_pixels_are_replaced_in_all_channels():
    images, others = torch.zeros(2, 3, 2, 2), torch.ones(2, 3, 2, 2)
    order = torch.tensor([[[0, 1], [2, 3]], [[3, 2], [1, 0]]])
    shown = replaced(images, others, order, torch.tensor([1, 3]))
    assert shown[0, 1].tolist() == [[1, 0], [0, 0]]
    assert shown[1, 2].tolist() == [[0, 1], [1, 1]]


@pytest.mark.parametrize("batch", [1, 3, 100])
@pytest.mark.parametrize("steps", [2, 5, 12, 40])
def test_a_curve_takes_equal_steps_whatever_the_batch(steps, batch):
    """The share of white grows with the pixels that became white: with the order alone, for any map."""
    images, others = torch.zeros(3, 1, 3, 4), torch.ones(3, 1, 3, 4)
    order = places(lots(3, 3, 4), lots(3, 3, 4, seed=1))
    found = curve(brightness, images, others, order, steps, batch)
    wanted = [step * 12 // steps / 12 for step in range(1, steps)]
    assert found.shape == (3, steps - 1)
    np.testing.assert_allclose(found.numpy(), [wanted] * 3)


def test_no_batch_is_larger_than_asked_and_each_row_knows_its_image():
    seen = []

    def scores(images, rows):
        seen.append((len(images), rows.tolist()))
        return rows.double()

    order = places(torch.zeros(3, 2, 2), lots(3, 2, 2))
    pauses = []
    found = curve(scores, torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2), order, 5, 5, lambda: pauses.append(1))
    assert [count for count, _ in seen] == [5, 5, 2]
    assert len(pauses) == 3
    assert found.tolist() == [[0.0] * 4, [1.0] * 4, [2.0] * 4]


def test_the_area_is_that_of_trapezoids():
    between = torch.tensor([[0.2, 0.6], [1.0, 0.5]])
    first, last = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.25])
    wanted = [np.trapezoid([1.0, 0.2, 0.6, 0.0], dx=1 / 3), np.trapezoid([0.0, 1.0, 0.5, 0.25], dx=1 / 3)]
    np.testing.assert_allclose(area_under(first, between, last).numpy(), wanted, rtol=1e-7)


def test_of_a_model_that_looks_at_one_pixel_the_areas_are_closed_forms():
    """Taken away first, that pixel leaves half a step's area; shown first, it gives all but half a step's."""
    images = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(0)) / 2
    images[:, 0, 2, 3] = 1

    def scores(shown, rows):
        return (shown[:, 0, 2, 3] == 1).double()

    heat = torch.zeros(4, 5, 5)
    heat[:, 2, 3] = 1
    plain = torch.zeros_like(images)
    drawn = lots(4, 5, 5)
    by_lot = places(torch.zeros(4, 5, 5), drawn)
    found = faithfulness(scores, images, plain, plain, places(heat, drawn), by_lot, steps=25, batch=7)
    assert found.deletion.tolist() == pytest.approx([0.5 / 25] * 4)
    assert found.insertion.tolist() == pytest.approx([1 - 0.5 / 25] * 4)
    # In random order it leaves at its place: after k others, k steps and a half are left of the area.
    place = by_lot[:, 2, 3].double()
    np.testing.assert_allclose(found.deletion_control.numpy(), (place + 0.5) / 25)
    np.testing.assert_allclose(found.insertion_control.numpy(), 1 - (place + 0.5) / 25)


@given(st.floats(2**-24, 1 - 2**-24, width=32), st.integers(1, 5), st.integers(1, 5))
def test_a_map_elsewhere_is_the_same_map_rolled_and_never_in_its_place(draw, height, width):
    heat = torch.arange(height * width).view(1, height, width)
    moved = elsewhere(heat, torch.tensor([draw]))
    rolls = [heat.roll((down, right), (1, 2)) for down in range(height) for right in range(width)]
    assert [torch.equal(moved, other) for other in rolls].count(True) == 1
    assert height * width == 1 or not torch.equal(moved, heat)
