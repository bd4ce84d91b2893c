"""Windows: every place of a patch is hidden, every pixel is covered, and what cannot be is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditkit.covers import Windows
from auditkit.errors import ExecutionError

SIDES = st.tuples(st.integers(1, 14), st.integers(1, 14))


def hides_every_patch(windows, height, width):
    """Look at each place of a patch of this size, one by one."""
    return all(
        any(
            top <= row
            and row + height <= top + windows.height
            and left <= column
            and column + width <= left + windows.width
            for top, left in windows.corners
        )
        for row in range(windows.image_height - height + 1)
        for column in range(windows.image_width - width + 1)
    )


@settings(max_examples=60, deadline=None)
@given(image=SIDES, data=st.data(), per_axis=st.integers(1, 7))
def test_every_place_of_every_patch_up_to_the_size_is_inside_a_window(image, data, per_axis):
    patch = tuple(data.draw(st.integers(1, side)) for side in image)
    windows = Windows.covering(*image, *patch, per_axis)
    smaller = tuple(data.draw(st.integers(1, side)) for side in patch)
    assert hides_every_patch(windows, *patch)
    assert hides_every_patch(windows, *smaller)
    assert max(windows.shape) <= per_axis


@settings(max_examples=40, deadline=None)
@given(side=st.integers(1, 40), data=st.data(), per_axis=st.integers(1, 7))
def test_no_smaller_window_would_do_with_as_many_on_an_axis(side, data, per_axis):
    """So many windows, one pixel smaller, hide a patch in fewer places than it has."""
    patch = data.draw(st.integers(1, side))
    windows = Windows.covering(side, side, patch, patch, per_axis)
    assert per_axis * (windows.height - patch) < side - patch + 1


@pytest.mark.parametrize(
    ("side", "patch", "per_axis", "stride", "size", "count"),
    [(224, 32, 6, 33, 64, 36), (224, 32, 3, 65, 96, 9), (32, 5, 6, 5, 9, 36), (32, 8, 6, 5, 12, 25)],
)
def test_the_published_geometries_come_out(side, patch, per_axis, stride, size, count):
    windows = Windows.covering(side, side, patch, patch, per_axis)
    assert (windows.height, windows.width, len(windows)) == (size, size, count)
    assert windows.tops[1] - windows.tops[0] == stride


@settings(max_examples=60, deadline=None)
@given(image=SIDES, data=st.data())
def test_a_grid_covers_every_pixel_and_keeps_its_stride(image, data):
    size = tuple(data.draw(st.integers(1, side)) for side in image)
    stride = tuple(data.draw(st.integers(1, side)) for side in size)
    windows = Windows.grid(*image, size, stride)
    covered = np.zeros(image, dtype=bool)
    for top, left in windows.corners:
        part = covered[top : top + windows.height, left : left + windows.width]
        assert part.shape == size
        part[:] = True
    assert covered.all()
    for starts, step, side, length in zip((windows.tops, windows.lefts), stride, image, size, strict=True):
        steps = np.diff(starts)
        assert (steps[:-1] == step).all()
        assert (steps[-1:] <= step).all()
        assert len(starts) == -(-(side - length) // step) + 1


def test_windows_are_numbered_row_by_row_and_know_their_middle():
    windows = Windows.grid(6, 9, (2, 3), (2, 3))
    assert windows.shape == (3, 3)
    assert windows.corners[:4] == [(0, 0), (0, 3), (0, 6), (2, 0)]
    assert windows.centres[:4] == [(1, 1), (1, 4), (1, 7), (3, 1)]
    assert len(windows) == len(windows.corners) == len(windows.centres) == 9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Windows.covering(8, 8, 9, 4, 3), "a patch of 1 to 8 pixels .* got 9 pixels and 3 windows"),
        (lambda: Windows.covering(8, 6, 4, 7, 3), "a patch of 1 to 6 pixels .* got 7"),
        (lambda: Windows.covering(8, 8, 0, 4, 3), "got 0 pixels"),
        (lambda: Windows.covering(8, 8, 4, 4, 0), "got 4 pixels and 0 windows"),
        (lambda: Windows.grid(8, 8, (9, 4), (1, 1)), "windows of 1 to 8 pixels .* got windows of 9 pixels"),
        (lambda: Windows.grid(8, 8, (4, 4), (5, 1)), "no pixel stays uncovered; .* with a stride of 5"),
        (lambda: Windows.grid(8, 8, (4, 4), (1, 0)), "with a stride of 0"),
        (lambda: Windows(8, 8, (0, 5), (0,), 4, 8), r"inside 8 pixels, got 4 pixels from each of \(0, 5\)"),
        (lambda: Windows(8, 8, (2, 1), (0,), 4, 8), "ascending order"),
        (lambda: Windows(8, 8, (), (0,), 4, 8), "ascending order"),
        (lambda: Windows(8, 8, (-1,), (0,), 4, 8), "inside 8 pixels"),
    ],
)
def test_windows_that_cannot_be_are_refused_in_one_line(make, message):
    with pytest.raises(ExecutionError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
