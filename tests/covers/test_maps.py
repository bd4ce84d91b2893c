"""Maps of what each window does: the sums over the windows that cover a pixel are those of a loop over windows."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditkit.covers import Windows, pixel_map, zeiler_map


def by_hand(values, windows):
    """Add up window after window."""
    total = np.zeros((len(values), windows.image_height, windows.image_width))
    count = np.zeros(total.shape)
    for number, (top, left) in enumerate(windows.corners):
        part = np.s_[:, top : top + windows.height, left : left + windows.width]
        total[part] += values[:, number, None, None]
        count[part] += 1
    with np.errstate(invalid="ignore"):
        return total / count


@settings(max_examples=60, deadline=None)
@given(
    image=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    data=st.data(),
    seed=st.integers(0, 1000),
)
def test_the_pixel_map_is_the_mean_over_the_windows_that_cover_a_pixel(image, data, seed):
    size = tuple(data.draw(st.integers(1, side)) for side in image)
    stride = tuple(data.draw(st.integers(1, side)) for side in size)
    windows = Windows.grid(*image, size, stride)
    values = torch.randn(3, len(windows), generator=torch.Generator().manual_seed(seed))
    got = pixel_map(values, windows)
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got, by_hand(values.double().numpy(), windows), rtol=1e-9, atol=1e-11)


def test_a_pixel_that_no_window_covers_has_no_value():
    windows = Windows(3, 6, (0,), (1, 4), 3, 1)
    values = torch.tensor([[2.0, 5.0]])
    np.testing.assert_array_equal(pixel_map(values, windows)[0, 0], [np.nan, 2, np.nan, np.nan, 5, np.nan])


def test_the_zeiler_map_has_the_shape_of_the_grid_and_starts_at_the_top_left():
    windows = Windows.grid(6, 9, (2, 3), (2, 2))
    values = torch.arange(2 * len(windows)).view(2, -1).float()
    got = zeiler_map(values, windows)
    assert got.shape == (2, 3, 4)
    for number, (top, left) in enumerate(windows.corners):
        assert got[1, windows.tops.index(top), windows.lefts.index(left)] == values[1, number]


def test_a_map_has_the_same_bits_in_any_batch():
    windows = Windows.grid(32, 32, (9, 9), (4, 4))
    values = torch.randn(40, len(windows), generator=torch.Generator().manual_seed(1))
    together = pixel_map(values, windows)
    assert all(torch.equal(pixel_map(values[row : row + 1], windows)[0], together[row]) for row in range(40))
