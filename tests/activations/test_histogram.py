"""Histograms of float bits: quantiles of anything, exact counts of zeros, and shards that add up bit by bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from auditkit.activations.histogram import BINS, MagnitudeHistogram, count_bits, magnitude_bits, zero_spread

SHARES = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
TINY = torch.finfo(torch.float32).tiny


def counted(values, negative=True):
    rows = torch.as_tensor(values, dtype=torch.float32).reshape(1, -1)
    into = torch.empty(rows.shape, dtype=torch.bfloat16)
    return count_bits(magnitude_bits(rows, negative, into, zero_spread(rows.shape[1], rows.device)).view(-1)).numpy()


def histogram(values, negative=True):
    return MagnitudeHistogram(counted(values, negative), float(torch.as_tensor(values).abs().max()))


def close(got, wanted):
    return abs(got - wanted) <= 0.004 * wanted


HEAVY = {
    "pareto, infinite mean": lambda rng, n: rng.pareto(0.8, n) + 1,
    "pareto, infinite variance": lambda rng, n: rng.pareto(1.5, n) + 1,
    "lognormal": lambda rng, n: rng.lognormal(0, 3, n),
    "lognormal, tiny": lambda rng, n: 1e-25 * rng.lognormal(0, 4, n),
    "lognormal, huge": lambda rng, n: 1e20 * rng.lognormal(0, 4, n),
    "rectified normal": lambda rng, n: np.maximum(rng.normal(0, 1, n), 0),
    "normal": lambda rng, n: rng.normal(0, 1, n),
    "one outlier of 1e6": lambda rng, n: np.append(np.maximum(rng.normal(0, 1, n), 0), 1e6),
}


@pytest.mark.parametrize("name", list(HEAVY))
def test_quantiles_of_heavy_tails_are_within_half_a_percent(name):
    values = HEAVY[name](np.random.default_rng(1), 300_000).astype(np.float32)
    found = histogram(values)
    for share in SHARES:
        wanted = np.quantile(np.abs(values), share, method="inverted_cdf")
        assert close(found.quantile(share), float(wanted)), share
        positive = np.abs(values)[values != 0]
        wanted = np.quantile(positive, share, method="inverted_cdf")
        assert close(found.quantile_of_positive(share), float(wanted)), share


finite = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False, max_value=2.0**127)


@settings(max_examples=200, deadline=None)
@given(
    values=hnp.arrays(np.float32, st.integers(1, 60), elements=finite.map(abs)),
    share=st.floats(0.01, 1).map(lambda share: round(share, 4)),
)
def test_a_quantile_is_within_half_a_percent_of_the_order_statistic(values, share):
    wanted = float(np.sort(values)[max(1, math.ceil(round(share * len(values), 9))) - 1])
    assert close(histogram(values).quantile(share), wanted)


@settings(max_examples=100, deadline=None)
@given(values=hnp.arrays(np.float32, st.integers(0, 300), elements=finite), cut=st.integers(0, 300))
def test_the_histograms_of_two_parts_add_up_bit_by_bit(values, cut):
    parts = counted(values[:cut]) + counted(values[cut:])
    assert np.array_equal(parts, counted(values))
    assert parts.sum() == len(values)


def test_zeros_are_counted_exactly_and_a_negative_zero_is_one():
    values = [0.0, -0.0, 1.0, -2.0, TINY, 0.0] * 1000
    found = histogram(values)
    assert (found.total, found.zeros) == (6000, 3000)
    assert MagnitudeHistogram(counted([0.0, -0.0, 3.0], negative=False), 3.0).zeros == 2


def test_what_is_smaller_than_any_normal_float_is_zero():
    assert histogram([TINY / 2, TINY / 1000, TINY, 1.0]).zeros == 2


def test_negative_values_count_by_their_magnitude():
    values = np.random.default_rng(0).normal(0, 1, 5000).astype(np.float32)
    assert np.array_equal(counted(values), counted(np.abs(values), negative=False))


def test_a_function_without_negative_values_is_counted_without_looking_for_them():
    values = np.maximum(np.random.default_rng(0).normal(0, 1, 5000), 0).astype(np.float32)
    assert np.array_equal(counted(values, negative=False), counted(values))


@pytest.mark.parametrize(("values", "wanted"), [([5.9, 6.0, 6.0, 6.1, 7.0], 2), ([6.0] * 9, 0), ([0.0, 1.0], 0)])
def test_what_saturates_at_six_is_not_above_six(values, wanted):
    assert histogram(values).above(6.0) == wanted


def test_no_quantile_lies_above_the_largest_value():
    values = np.full(100, 1.004, dtype=np.float32)
    assert histogram(values).quantile(0.99999) == pytest.approx(1.004, rel=1e-6)


def test_a_histogram_of_nothing_has_no_quantile():
    nothing = MagnitudeHistogram(np.zeros(BINS, dtype=np.int64), 0.0)
    assert nothing.quantile(0.5) is None
    assert nothing.total == nothing.zeros == nothing.above(0) == 0
    silent = histogram([0.0, 0.0])
    assert silent.quantile(0.999) == 0.0
    assert silent.quantile_of_positive(0.5) is None


def test_the_largest_floats_stay_finite():
    assert histogram([3.4e38, 3.4028e38]).quantile(1.0) == pytest.approx(3.39e38, rel=0.004)
