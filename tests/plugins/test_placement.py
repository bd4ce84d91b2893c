"""Placing a patch: exact where a formula says what comes out, inside the image, differentiable, a row at a time."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditkit_plugins.placement import NUMBERS_A_PLACEMENT, Placement, drawn_placement, placed, side_of, texels


def placement(down, across, side, angle=0.0, light=1.0):
    return Placement(*(torch.tensor([float(value)]) for value in (down, across, angle, side, light)))


def randoms(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(n, largest, extent, shape, seed=0):
    return drawn_placement(
        randoms(n, NUMBERS_A_PLACEMENT, seed=seed), largest, extent, shape, math.radians(22.5), 0.1, 0.2
    )


def test_a_straight_square_on_whole_pixels_is_the_patch_itself():
    images, patch = randoms(1, 3, 9, 12), randoms(3, 4, 4, seed=1)
    got = placed(images, patch, placement(down=5, across=4, side=4), "square")
    wanted = images.clone()
    wanted[0, :, 3:7, 2:6] = patch
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


def test_a_quarter_turn_turns_the_patch():
    images, patch = torch.zeros(1, 1, 8, 8), randoms(1, 4, 4, seed=1)
    got = placed(images, patch, placement(down=4, across=4, side=4, angle=math.pi / 2), "square")
    turned = [torch.rot90(patch, times, (1, 2)) for times in (1, 3)]
    assert any(torch.allclose(got[0, :, 2:6, 2:6], wanted, atol=1e-4) for wanted in turned)


def test_pixels_on_the_edge_are_mixed_by_the_share_that_is_covered():
    got = placed(torch.zeros(1, 1, 6, 6), torch.ones(1, 2, 2), placement(down=2.5, across=3.25, side=2), "square")
    along, upright = torch.tensor([0, 0, 0.75, 1, 0.25, 0]), torch.tensor([0, 0.5, 1, 0.5, 0, 0])
    torch.testing.assert_close(got[0, 0], upright.unsqueeze(1) * along)


@pytest.mark.parametrize("shape", ["circle", "square"])
@pytest.mark.parametrize("area", [0.02, 0.05, 0.2])
def test_a_patch_covers_the_share_that_it_may_and_no_more(shape, area):
    """A patch that grows on turning, or at its soft edge, would break its budget."""
    extent = (40, 30)
    where = drawn(50, side_of(area, *extent, shape), extent, shape)
    cover = placed(torch.zeros(50, 1, *extent), torch.full((1, 2, 2), 2.0), where, shape).flatten(1).mean(1)
    share = area * (where.side / side_of(area, *extent, shape)).square()
    torch.testing.assert_close(cover, share, atol=0.1 * area, rtol=0)
    assert float(cover.max()) <= 1.02 * area


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    shape=st.sampled_from(["circle", "square"]),
    extent=st.sampled_from([(8, 8), (5, 12), (32, 20)]),
    area=st.floats(0.01, 0.3),
)
def test_a_drawn_patch_lies_wholly_inside_the_image(seed, shape, extent, area):
    largest = side_of(area, *extent, shape)
    where = drawn(20, largest, extent, shape, seed=seed)
    for centre, size in ((where.down, extent[0]), (where.across, extent[1])):
        turned = where.angle.cos().abs() + where.angle.sin().abs() if shape == "square" else 1.0
        reach = where.side / 2 * turned
        fits = 2 * reach <= size
        assert ((centre - reach >= -1e-4) | ~fits).all()
        assert ((centre + reach <= size + 1e-4) | ~fits).all()
    assert ((where.side <= largest + 1e-5) & (where.side >= 0.9 * largest - 1e-5)).all()


def test_places_reach_all_of_the_image():
    where = drawn(500, 4.0, (32, 32), "circle")
    assert float(where.down.min()) < 2.5
    assert float(where.across.max()) > 29.5
    assert float(where.angle.abs().max()) > 0.9 * math.radians(22.5)


def test_rows_do_not_see_each_other():
    images, where = randoms(6, 3, 10, 10), drawn(6, 4.0, (10, 10), "circle")
    patch = randoms(3, 4, 4, seed=2)
    together = placed(images, patch, where, "circle")
    for row in range(6):
        one = Placement(*(part[row : row + 1] for part in vars(where).values()))
        assert torch.equal(placed(images[row : row + 1], patch, one, "circle")[0], together[row])
    each = patch.expand(6, -1, -1, -1).clone()
    assert torch.equal(placed(images, each, where, "circle"), together), "one patch each, all alike"


def test_the_gradient_of_the_patch_is_that_of_small_differences():
    images, where = randoms(3, 1, 8, 8).double(), drawn(3, 4.0, (8, 8), "square")
    where = Placement(*(part.double() for part in vars(where).values()))
    patch = (0.2 + 0.5 * randoms(1, 3, 3, seed=3)).double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda leaf: placed(images, leaf, where, "square"), (patch,))


def test_light_brightens_the_patch_alone_and_stops_at_white():
    images, patch = torch.full((1, 1, 6, 6), 0.5), torch.tensor([[[0.5, 0.9]] * 2])
    got = placed(images, patch, placement(down=3, across=3, side=2, light=1.2), "square")
    torch.testing.assert_close(got[0, 0, 2, 2:4], torch.tensor([0.6, 1.0]))
    assert float(got[0, 0, 0, 0]) == 0.5


def test_sides_follow_from_areas():
    assert side_of(0.25, 32, 32, "square") == pytest.approx(16)
    assert math.pi / 4 * side_of(0.05, 32, 32, "circle") ** 2 == pytest.approx(0.05 * 1024)
    assert side_of(1.0, 8, 32, "square") == 8
    assert [texels(side) for side in (0.3, 4.0, 4.2)] == [1, 8, 9]
