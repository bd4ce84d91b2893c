"""How much of a map lies on the object: closed forms, chance levels, and objects that nobody knows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from auditkit_plugins.localisation import localise, mass_ratio, pointing, relevance_mass, relevance_rank

HEAT = np.array([[4.0, 3.0, 0.0], [2.0, 1.0, 0.0]])
MASK = np.array([[True, False, False], [True, False, True]])

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 5))


@st.composite
def pairs(draw):
    """Maps with many equal values, and objects that neither are empty nor fill the image."""
    shape = draw(SHAPES.filter(lambda shape: shape[0] * shape[1] > 1))
    heat = draw(arrays.arrays(np.float64, shape, elements=st.integers(0, 3).map(float)).filter(np.any))
    mask = draw(arrays.arrays(np.bool_, shape).filter(lambda mask: 0 < mask.sum() < mask.size))
    return heat, mask


def test_the_share_on_the_object_is_its_sum():
    assert relevance_mass(HEAT, MASK) == 0.6
    assert mass_ratio(HEAT, MASK) == pytest.approx(1.2, abs=1e-15)


def test_the_rank_counts_as_many_pixels_as_the_object_has():
    """The three strongest are 4, 3 and 2, of which 4 and 2 lie on it."""
    assert relevance_rank(HEAT, MASK) == pytest.approx(2 / 3)
    assert relevance_rank(HEAT, ~MASK) == pytest.approx(1 / 3)


def test_the_strongest_pixel_decides_the_pointing_game():
    assert pointing(HEAT, MASK) == 1
    assert pointing(HEAT, ~MASK) == 0


@given(st.floats(0.01, 100), pairs())
def test_a_map_that_is_the_same_everywhere_has_the_values_of_chance(level, pair):
    heat, mask = np.full_like(pair[0], level), pair[1]
    assert relevance_mass(heat, mask) == pytest.approx(mask.mean())
    assert relevance_rank(heat, mask) == pytest.approx(mask.mean())
    assert pointing(heat, mask) == pytest.approx(mask.mean())
    assert mass_ratio(heat, mask) == pytest.approx(1)


@given(pairs())
def test_equal_pixels_count_as_in_the_mean_over_all_their_orders(pair):
    heat, mask = pair
    values, inside = heat.ravel()[:5], mask.ravel()[:5]
    assume(values.any() and 0 < inside.sum() < inside.size)
    size, hits, ranks = int(inside.sum()), [], []
    for order in itertools.permutations(range(values.size)):
        ranked = sorted(order, key=lambda at: -values[at])
        hits.append(inside[ranked[0]])
        ranks.append(inside[ranked[:size]].mean())
    assert pointing(values[None], inside[None]) == pytest.approx(np.mean(hits))
    assert relevance_rank(values[None], inside[None]) == pytest.approx(np.mean(ranks))


@given(pairs(), st.floats(0.01, 100))
def test_the_scale_of_a_map_does_not_matter(pair, factor):
    heat, mask = pair
    for measure in (relevance_mass, relevance_rank, mass_ratio, pointing):
        assert measure(heat * factor, mask) == pytest.approx(measure(heat, mask), rel=1e-9)


@given(pairs())
def test_object_and_background_share_the_relevance(pair):
    heat, mask = pair
    assert relevance_mass(heat, mask) + relevance_mass(heat, ~mask) == pytest.approx(1)
    assert pointing(heat, mask) + pointing(heat, ~mask) == pytest.approx(1)


def test_an_object_that_is_unknown_or_fills_the_image_has_no_values():
    """An empty mask must not count as a miss, nor (as in a well-known library) as a hit."""
    maps = np.stack([HEAT] * 4).astype(np.float32)
    maps[3] = 0
    masks = np.stack([MASK, np.zeros_like(MASK), np.ones_like(MASK), MASK])
    found = localise(maps, masks)
    assert found.measured.tolist() == [True, False, False, False]
    for values in (found.mass, found.rank, found.ratio, found.pointing):
        assert np.isnan(values).tolist() == [False, True, True, True]
    assert np.isnan(found.share).tolist() == [False, True, True, False], "of a map of zeros the object is still known"
    assert found.mass[0] == 0.6
    assert found.share[0] == 0.5


def test_a_value_does_not_depend_on_the_other_images():
    rng = np.random.default_rng(0)
    maps = rng.random((9, 13, 11)).astype(np.float32)
    masks = rng.random((9, 13, 11)) < 0.3
    whole = localise(maps, masks)
    for row in range(9):
        alone = localise(maps[row : row + 1], masks[row : row + 1])
        for name in ("mass", "rank", "ratio", "pointing", "share"):
            assert getattr(alone, name)[0] == getattr(whole, name)[row]
