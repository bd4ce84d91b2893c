"""Random masks: smooth, in range, shifted, and drawn from the sample's own stream alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from auditkit import Streams
from auditkit_plugins.random_masks import RandomMasks

ALL = slice(None)


def drawn(count=40, grid=4, keep=0.5, name="a"):
    return RandomMasks.draw(Streams.of(0, "masks", [name]), count, grid, keep)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), grid=st.integers(2, 9), seed=st.integers(0, 99))
def test_a_mask_is_its_grid_blown_up_smoothly_and_cut_at_its_shift(height, width, grid, seed):
    masks = drawn(6, grid, name=str(seed))
    got = masks.over(torch.zeros(3, height, width), ALL)
    assert got.shape == (6, height, width)
    for mask, cells, shift in zip(got, masks.grids, masks.shifts, strict=True):
        sizes = [-(-side // grid) for side in (height, width)]
        large = functional.interpolate(
            cells[None, None], [(grid + 1) * size for size in sizes], mode="bilinear", align_corners=False
        )[0, 0]
        top, left = (int(part * size) for part, size in zip(shift.tolist(), sizes, strict=True))
        torch.testing.assert_close(mask, large[top : top + height, left : left + width], rtol=1e-5, atol=1e-5)


def test_parts_of_the_masks_are_those_of_all_to_the_bit():
    masks, image = drawn(50), torch.zeros(1, 16, 24)
    together = masks.over(image, ALL)
    for size in (1, 7, 16):
        parts = [masks.over(image, slice(start, start + size)) for start in range(0, 50, size)]
        assert torch.equal(torch.cat(parts), together)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.8])
def test_so_many_cells_are_kept_and_every_pixel_is_as_often_visible(keep):
    masks = drawn(4000, 4, keep)
    assert masks.grids.mean() == pytest.approx(keep, abs=0.01)
    visible = masks.over(torch.zeros(1, 12, 12), ALL).mean(0)
    assert (visible - keep).abs().max() < 0.03
    assert masks.shifts.min() < 0.01
    assert masks.shifts.max() > 0.99


def test_masks_belong_to_the_sample_and_more_of_them_are_the_same_and_some_new_ones():
    one, same, more, other = drawn(20), drawn(20), drawn(30), drawn(20, name="b")
    assert torch.equal(one.grids, same.grids)
    assert torch.equal(one.shifts, more.shifts[:20])
    assert torch.equal(one.grids, more.grids[:20])
    assert not torch.equal(one.grids, other.grids)
    assert len({tuple(cells.flatten().tolist()) for cells in one.grids}) > 15
