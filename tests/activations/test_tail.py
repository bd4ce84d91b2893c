"""The tail index: the power of a Pareto distribution, whatever lies below its tail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from auditkit.activations.histogram import MagnitudeHistogram, count_bits, magnitude_bits, zero_spread
from auditkit.activations.tail import tail_index


def histogram(values):
    rows = torch.from_numpy(values.astype(np.float32)).view(1, -1)
    into = torch.empty(rows.shape, dtype=torch.bfloat16)
    bits = magnitude_bits(rows, True, into, zero_spread(rows.shape[1], rows.device))
    return MagnitudeHistogram(count_bits(bits.view(-1)).numpy(), float(np.abs(values).max()))


@pytest.mark.parametrize("alpha", [0.7, 1.5, 3.0, 6.0])
@pytest.mark.parametrize("zeros", [0, 200_000])
def test_the_power_of_a_pareto_distribution_is_found(alpha, zeros):
    rng = np.random.default_rng(2)
    values = np.concatenate([np.zeros(zeros), rng.pareto(alpha, 2_000_000) + 1])
    assert tail_index(histogram(values)) == pytest.approx(alpha, rel=0.06)


@pytest.mark.parametrize("alpha", [1.0, 4.0])
def test_it_is_hills_formula_for_the_values_beyond_the_edge(alpha):
    values = np.sort(np.random.default_rng(3).pareto(alpha, 400_000) + 1)
    found = tail_index(histogram(values))
    hill = [1 / np.log(values[-k:] / values[-k - 1]).mean() for k in range(395, 450)]
    assert min(hill) * 0.97 < found < max(hill) * 1.03


def test_scale_does_not_matter():
    values = np.random.default_rng(4).pareto(2.0, 300_000) + 1
    found = [tail_index(histogram(values * 2.0**power)) for power in (-40, 0, 50)]
    assert found[0] == pytest.approx(found[1], rel=1e-12) == pytest.approx(found[2], rel=1e-12)


def test_a_normal_tail_is_lighter_than_any_power_seen_in_networks():
    assert tail_index(histogram(np.random.default_rng(5).normal(0, 1, 1_000_000))) > 10


@pytest.mark.parametrize(
    "values",
    [np.zeros(5000), np.ones(99), np.full(5000, 6.0), np.minimum(np.random.default_rng(6).pareto(1, 9999), 6)],
    ids=["silent", "few", "constant", "bounded"],
)
def test_a_tail_that_ends_or_is_too_short_has_no_index(values):
    assert tail_index(histogram(values)) is None
