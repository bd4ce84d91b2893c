"""Shapes drawn as masks: by the pixels' centres, and as the COCO tools count runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from matplotlib.path import Path as Outline

from auditkit.samples import shapes
from auditkit.samples.shapes import box_mask, polygon_mask, run_mask, unpack_runs

# What pycocotools 2.0.11 makes of these masks: `encode(numpy.asfortranarray(mask))["counts"]`.
SMALL = "01:3K00000?M"
LARGE = "m352" + "b08^OH" * 41 + "b0[6"


def centres(size):
    rows, columns = np.mgrid[: size[0], : size[1]]
    return np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], 1)


def test_a_box_holds_the_pixels_whose_centres_lie_in_it():
    assert np.argwhere(box_mask(1, 2, 3, 4, (6, 5))).tolist() == [[2, 1], [2, 2], [3, 1], [3, 2]]
    assert np.argwhere(box_mask(0.4, 0.6, 1.5, 1.6, (6, 5))).tolist() == [[1, 0]]
    assert box_mask(-9, -9, 99, 99, (6, 5)).all()
    assert not box_mask(0.6, 0, 1.4, 6, (6, 5)).any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 9))
def test_a_polygon_holds_the_pixels_whose_centres_lie_in_it(seed, corners):
    rng = np.random.default_rng(seed)
    # In order of their angle, so that the outline does not cross itself; corners also lie outside the image.
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    outline = np.array([12, 10]) + rng.uniform(2, 14, corners)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    size = (19, 23)
    wanted = Outline(outline).contains_points(centres(size)).reshape(size)
    assert np.array_equal(polygon_mask(outline, size), wanted)


@given(
    st.tuples(*[st.integers(-4, 12)] * 2),
    st.tuples(*[st.integers(1, 9)] * 2),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_a_rectangle_is_the_same_as_a_box_and_as_a_polygon(corner, extent, height, width):
    (left, top), (across, down) = corner, extent
    right, bottom = left + across, top + down
    outline = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=float)
    size = (height, width)
    assert np.array_equal(polygon_mask(outline, size), box_mask(left, top, right, bottom, size))
    assert np.array_equal(polygon_mask(outline[::-1], size), box_mask(left, top, right, bottom, size))


def test_where_a_polygon_crosses_itself_twice_it_is_empty():
    ring = np.array([[0, 0], [6, 0], [6, 6], [0, 6], [0, 0], [2, 2], [4, 2], [4, 4], [2, 4], [2, 2]], dtype=float)
    assert np.array_equal(polygon_mask(ring, (6, 6)), ~box_mask(2, 2, 4, 4, (6, 6)))


@pytest.mark.parametrize("corners", [0, 1, 2])
def test_less_than_a_triangle_covers_nothing(corners):
    assert not polygon_mask(np.arange(2.0 * corners).reshape(corners, 2), (4, 4)).any()


@given(arrays.arrays(np.bool_, st.tuples(st.integers(1, 8), st.integers(1, 8))))
def test_runs_go_down_the_columns_and_start_with_false(mask):
    runs, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(0)
            value = bool(pixel)
        runs[-1] += 1
    assert np.array_equal(run_mask(runs, mask.shape), mask)


@pytest.mark.parametrize("runs", [[5], [3, 4], [7, -1], []])
def test_runs_that_do_not_fill_the_mask_are_refused(runs):
    with pytest.raises(ValueError, match="2x3"):
        run_mask(runs, (2, 3))


def test_compressed_runs_are_those_of_the_coco_tools():
    small = np.zeros((9, 7), dtype=bool)
    small[2:6, 1:5] = small[8, 6] = small[0, 0] = True
    assert np.array_equal(run_mask(unpack_runs(SMALL), small.shape), small)
    large = np.zeros((40, 50), dtype=bool)
    large[5:35, 3:45] = True
    large[10:12] = False
    assert np.array_equal(run_mask(unpack_runs(LARGE), large.shape), large)


@pytest.mark.parametrize("text", ["1Z", "1 1", "é"])
def test_damaged_compressed_runs_are_refused(text):
    with pytest.raises(ValueError, match="compressed run lengths"):
        unpack_runs(text)


@pytest.mark.parametrize(
    ("counts", "size"),
    [
        ([10**12], (10**6, 10**6)),
        ([2**64], (2**32, 2**32)),
        ([2**63, 2**63, 12], (3, 4)),
        ([10**400], (3, 4)),
        ([0], (0, 4)),
        ([12], (-3, -4)),
    ],
)
def test_runs_of_absurd_masks_are_refused_before_anything_is_drawn(counts, size):
    with pytest.raises(ValueError, match=r"pixels"):
        run_mask(counts, size)


def test_a_packed_number_larger_than_any_image_is_refused_at_once():
    with pytest.raises(ValueError, match="larger than any image"):
        unpack_runs("o" * 1_000_000)


def test_a_polygon_of_many_corners_is_drawn_as_by_its_definition_whatever_is_drawn_together(monkeypatch):
    corners = np.random.default_rng(3).uniform(-2, 12, (50, 2))
    whole = polygon_mask(corners, (11, 9))
    monkeypatch.setattr(shapes, "_TOGETHER", 22)  # two edges at a time
    assert np.array_equal(polygon_mask(corners, (11, 9)), whole)
