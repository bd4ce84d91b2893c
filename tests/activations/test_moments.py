"""Moments: those of scipy, also when they come from many parts."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditkit.activations.histogram import MagnitudeHistogram, count_bits, magnitude_bits, zero_spread
from auditkit.activations.moments import Moments, power_sums

DISTRIBUTIONS = {
    "normal": lambda rng, n: rng.normal(1, 2, n),
    "rectified": lambda rng, n: np.maximum(rng.normal(0, 1, n), 0),
    "lognormal": lambda rng, n: rng.lognormal(0, 2, n),
    "pareto": lambda rng, n: rng.pareto(2.5, n),
    "far from zero": lambda rng, n: 10 + rng.normal(0, 1, n),
    "tiny": lambda rng, n: 1e-12 * rng.lognormal(0, 1, n),
    "huge": lambda rng, n: 1e15 * rng.lognormal(0, 1, n),
}


def sums(values):
    tensor = torch.from_numpy(values)
    return power_sums(tensor, torch.empty(2, len(tensor), dtype=torch.float64)).numpy()


def drawn(name, n=20_000, seed=1):
    return DISTRIBUTIONS[name](np.random.default_rng(seed), n).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(list(DISTRIBUTIONS)), seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 20_000)))
def test_moments_of_parts_are_those_of_scipy(name, seed, cuts):
    values = drawn(name, seed=seed)
    parts = np.split(values, sorted(cuts))
    moments = Moments(len(values), sum((sums(part) for part in parts), np.zeros(4)))
    exact = values.astype(np.float64)
    assert moments.kurtosis == pytest.approx(scipy.stats.kurtosis(exact, fisher=False), rel=1e-9)
    assert moments.mean == pytest.approx(exact.mean(), rel=1e-12)
    assert moments.deviation == pytest.approx(exact.std(), rel=1e-9)


@pytest.mark.parametrize("name", ["rectified", "lognormal", "pareto"])
def test_moments_from_a_histogram_are_right_to_three_digits(name):
    values = drawn(name, 500_000)
    rows = torch.from_numpy(values).view(1, -1)
    bits = magnitude_bits(
        rows, False, torch.empty(rows.shape, dtype=torch.bfloat16), zero_spread(len(values), rows.device)
    )
    found = Moments.of(MagnitudeHistogram(count_bits(bits.view(-1)).numpy(), float(values.max())))
    exact = values.astype(np.float64)
    assert found.n == len(values)
    assert found.kurtosis == pytest.approx(scipy.stats.kurtosis(exact, fisher=False), rel=5e-3)
    assert found.mean == pytest.approx(exact.mean(), rel=1e-4)
    assert found.deviation == pytest.approx(exact.std(), rel=1e-3)


@pytest.mark.parametrize("values", [[], [2.5, 2.5, 2.5], [0.0, 0.0]])
def test_constants_have_no_kurtosis(values):
    assert Moments(len(values), sums(np.array(values, dtype=np.float32))).kurtosis is None


def test_sums_that_overflow_have_no_kurtosis():
    assert Moments(2, np.array([1.0, 1.0, 1.0, np.inf])).kurtosis is None
