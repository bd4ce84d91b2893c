"""Concentration: one unit that carries all, all units alike, and whatever lies between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from auditkit.activations.concentration import effective_share, top_share

mass = hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 300)), elements=st.floats(1e-3, 1e6))


def test_one_loud_unit_carries_all():
    one = np.zeros((2, 8))
    one[:, 3] = 5
    assert top_share(one, 0).tolist() == [1, 1]
    assert effective_share(one).tolist() == [1 / 8, 1 / 8]


def test_units_that_are_alike_share_alike():
    alike = np.full((1, 200), 7.0)
    assert top_share(alike, 0) == pytest.approx(1 / 200)
    assert top_share(alike, 0.01) == pytest.approx(2 / 200)
    assert effective_share(alike) == pytest.approx(1)


@pytest.mark.parametrize(("units", "count"), [(16, 1), (100, 1), (101, 2), (250, 3), (1, 1)])
def test_one_percent_of_the_units_is_rounded_up(units, count):
    values = np.arange(1.0, units + 1).reshape(1, -1)
    assert top_share(values, 0.01)[0] == pytest.approx(values[0, -count:].sum() / values.sum())


def test_a_silent_image_has_no_shares():
    silent = np.zeros((1, 4))
    assert np.isnan(top_share(silent, 0.01)).all()
    assert np.isnan(effective_share(silent)).all()


@settings(max_examples=60, deadline=None)
@given(mass=mass, power=st.integers(-300, 300))
def test_only_proportions_count(mass, power):
    scaled = mass * 2.0**power
    np.testing.assert_allclose(top_share(scaled, 0.01), top_share(mass, 0.01), rtol=1e-12)
    np.testing.assert_allclose(effective_share(scaled), effective_share(mass), rtol=1e-12)
    assert (effective_share(mass) <= 1 + 1e-12).all()
    assert (effective_share(mass) >= 1 / mass.shape[1] - 1e-12).all()
    assert (top_share(mass, 0) <= top_share(mass, 0.5) + 1e-15).all()


@settings(max_examples=60, deadline=None)
@given(mass=mass)
def test_an_image_has_the_same_shares_in_any_company(mass):
    for row in range(len(mass)):
        alone = mass[row : row + 1].copy()
        for share in (0, 0.01, 0.2):
            assert top_share(alone, share)[0] == top_share(mass, share)[row]
        assert effective_share(alone)[0] == effective_share(mass)[row]
