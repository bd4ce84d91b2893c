"""Quantiles of activations are exact but for what is rounded up, in any batches, for channels and layers."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rectified_networks import Branching, Relatives, Shared, Tokens, rectified
from torch import nn

from auditkit.bounding import activation_quantiles, bounded_copy
from auditkit.bounding.calls import sites_by_calls
from auditkit.bounding.histogram import ChannelHistogram
from auditkit.errors import ExecutionError, UsageError

IMAGES = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(5))
QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)


def order_statistic(values, quantile):
    """Return the smallest value that at least this share does not exceed."""
    rank = math.ceil(Fraction(str(quantile)) * values.numel())
    return values.flatten().sort().values[rank - 1]


@given(
    st.lists(st.lists(st.floats(-10, 1e4, width=32), min_size=3, max_size=3), min_size=2, max_size=40),
    st.sampled_from(QUANTILES),
    st.integers(1, 39),
)
def test_a_quantile_is_never_too_small_and_at_most_one_percent_too_large(rows, quantile, split):
    values = torch.tensor(rows)
    first, rest = values[:split], values[split:]
    histogram = ChannelHistogram(first, -1)
    histogram.add(first)
    if len(rest):
        histogram.add(rest)
    got = histogram.upper_quantile(quantile)
    resolved = first.amax(0).where(first.amax(0) > 0, first.max().clamp(min=0)) / 2048
    for channel in range(3):
        exact = order_statistic(values[:, channel], quantile).clamp(min=0)
        largest = values[:, channel].max().clamp(min=0)
        assert exact <= got[channel] <= largest
        # Far above the first part, only the largest value is known; far below, only that it is small.
        top = 4 * first.amax(0).where(first.amax(0) > 0, first.max())[channel]
        if exact < top:
            assert got[channel] <= max(1.008 * exact, resolved[channel])


def test_a_quantile_at_one_is_the_largest_value_even_above_all_octaves():
    histogram = ChannelHistogram(torch.tensor([[1.0]]), 1)
    for value in (1.0, 1e30):
        histogram.add(torch.tensor([[value]]))
    assert histogram.upper_quantile(1.0).tolist() == [pytest.approx(1e30)]
    assert histogram.upper_quantile(0.5).tolist() == [pytest.approx(1.0, rel=0.008)]


def test_values_of_zero_and_below_make_a_bound_of_zero():
    histogram = ChannelHistogram(torch.tensor([[-1.0, 0.0, 5.0]]), 1)
    histogram.add(torch.tensor([[-1.0, -0.0, 5.0]]))
    assert histogram.upper_quantile(1.0).tolist() == [0, 0, 5]


def test_infinite_values_are_refused():
    for odd in (math.nan, math.inf):
        histogram = ChannelHistogram(torch.tensor([[1.0, odd]]), 1)
        histogram.add(torch.tensor([[1.0, odd]]))
        with pytest.raises(ExecutionError, match="not all finite"):
            histogram.upper_quantile(0.9)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("kind", [Shared, Relatives, Tokens, Branching])
def test_quantiles_are_those_of_the_values_at_each_site(kind, per_channel):
    network = rectified(kind)
    got = activation_quantiles(network, IMAGES.split(16), QUANTILES, per_channel=per_channel)
    for (site, values), found in zip(sites_by_calls(network, IMAGES), got.values, strict=True):
        channels = values.movedim(site.channel_axis, 0).flatten(1) if per_channel else values.reshape(1, -1)
        for quantile, bound in zip(QUANTILES, found, strict=True):
            assert bound.shape == ((site.channels,) if per_channel else ())
            exact = torch.stack([order_statistic(channel, quantile) for channel in channels]).clamp(min=0)
            largest = channels.amax(1).clamp(min=0)
            assert (bound.view(-1) >= exact).all()
            # The first of the batches decides what is resolved; those here are much alike.
            assert (bound.view(-1) <= torch.maximum(1.008 * exact, largest / 1000)).all()


def test_batches_do_not_matter():
    network = rectified(Shared)
    whole = activation_quantiles(network, [IMAGES], QUANTILES)
    parts = activation_quantiles(network, [IMAGES[:20], IMAGES[20:33], IMAGES[33:]], QUANTILES)
    for first, second in zip(whole.values, parts.values, strict=True):
        torch.testing.assert_close(first, second, rtol=0.008, atol=1e-3)


def test_bounds_at_the_largest_value_change_no_score():
    network = rectified(Relatives)
    quantiles = activation_quantiles(network, IMAGES.split(10))
    bounded = bounded_copy(network, IMAGES, quantiles.bounds(1.0))
    with torch.no_grad():
        # In the batches of calibration, for other batches round differently.
        for batch in IMAGES.split(10):
            assert torch.equal(bounded.network(batch), network(batch))
    tight = bounded_copy(network, IMAGES, quantiles.bounds(0.99))
    with torch.no_grad():
        assert not torch.equal(tight.network(IMAGES), network(IMAGES))


def test_numbers_without_channels_have_one_bound():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 1), nn.Flatten(0), nn.ReLU(), nn.Unflatten(0, (-1, 1))).eval()
    nn.init.constant_(network[1].weight, 0.1)
    quantiles = activation_quantiles(network, [IMAGES], (1.0,))
    assert quantiles.values[0].shape == (1,)
    with torch.no_grad():
        bounded = bounded_copy(network, IMAGES, [quantiles.bounds(1.0)[0] / 2], "clip").network(IMAGES)
    assert float(bounded.max()) == pytest.approx(float(quantiles.bounds(1.0)[0]) / 2)


@pytest.mark.parametrize("quantiles", [(), (0.0,), (0.5, 1.1)])
def test_quantiles_out_of_range_are_refused(quantiles):
    with pytest.raises(UsageError, match="above 0 and up to 1; got"):
        activation_quantiles(rectified(Shared), [IMAGES], quantiles)


def test_a_quantile_that_was_not_measured_is_refused():
    with pytest.raises(UsageError, match=r"the quantiles are 0.9, 1.0; got 0.5"):
        activation_quantiles(rectified(Shared), [IMAGES], (0.9, 1.0)).bounds(0.5)


def test_no_images_are_refused():
    with pytest.raises(UsageError, match="got none"):
        activation_quantiles(rectified(Shared), [])
