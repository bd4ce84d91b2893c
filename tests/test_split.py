"""The split into images to learn from and images to judge on: fixed by names and seed, the same for every check."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditkit.split import is_held_out

NAMES = tuple(f"signs/{number:05}.png" for number in range(20_000))


@given(order=st.permutations(range(40)), kept=st.integers(1, 40), seed=st.integers(0, 5))
def test_order_and_company_move_no_image_to_the_other_side(order, kept, seed):
    names = NAMES[:40]
    whole = is_held_out(names, seed, 40)
    chosen = order[:kept]
    np.testing.assert_array_equal(is_held_out([names[row] for row in chosen], seed, 40), whole[chosen])


@pytest.mark.parametrize("n", [200, 1000, 2000])
def test_about_half_of_a_small_data_set_is_learned_from(n):
    for seed in range(10):
        learned = (~is_held_out(NAMES[:n], seed, n)).sum()
        assert abs(learned - n / 2) < 5 * (n / 4) ** 0.5


@pytest.mark.parametrize("n", [4000, 20_000])
def test_about_a_thousand_images_of_a_large_one_are_learned_from(n):
    for seed in range(5):
        learned = (~is_held_out(NAMES[:n], seed, n)).sum()
        assert abs(learned - 1000) < 5 * 1000**0.5


@pytest.mark.parametrize(
    ("image_bytes", "wanted"), [(3 * 32 * 32 * 4, 1000), (3 * 224 * 224 * 4, 668), (64 << 20, 32), (1 << 30, 32)]
)
def test_what_is_learned_from_fits_into_memory_but_for_32_images(image_bytes, wanted):
    """1000 images of 1024 x 1024 would take 12 GB."""
    for seed in range(3):
        learned = (~is_held_out(NAMES, seed, len(NAMES), image_bytes)).sum()
        assert abs(learned - wanted) < 5 * wanted**0.5


def test_the_size_of_an_image_does_not_matter_where_half_of_them_fit():
    for n in (40, 1000):
        plain, sized = (is_held_out(NAMES[:n], 1, n, image_bytes) for image_bytes in (0, 3 * 224 * 224 * 4))
        np.testing.assert_array_equal(plain, sized)


def test_a_larger_data_set_learns_from_no_image_that_a_smaller_one_judges_on():
    small, large = (is_held_out(NAMES[:2000], 3, n) for n in (2000, 8000))
    assert (large | ~small).all()
    assert large.sum() > small.sum()


def test_another_seed_gives_an_unrelated_split():
    one, other = (is_held_out(NAMES[:2000], seed, 2000) for seed in (0, 1))
    assert abs((one == other).mean() - 0.5) < 0.06
    np.testing.assert_array_equal(one, is_held_out(NAMES[:2000], 0, 2000))


def test_the_split_is_that_of_earlier_versions():
    """Audits of today and tomorrow judge on the same images."""
    held_out = is_held_out([f"{number}" for number in range(12)], 0, 12)
    assert held_out.nonzero()[0].tolist() == [0, 5, 6, 7, 10, 11]


def test_no_images_are_no_fault():
    assert is_held_out((), 0, 0).shape == (0,)
    assert is_held_out(("a",), 0, 0).shape == (1,)
