"""The profile: what torch and numpy say of the activations, whatever the batch, the layout and the shards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rectified_networks import NETWORKS, Functional, Gelu, Relatives, Shared, rectified
from torch import nn

from auditkit.activations import (
    ActivationCalibration,
    ActivationTotals,
    MagnitudeHistogram,
    calibrate_activations,
    profile_activations,
)
from auditkit.activations.calibration import OUTLIER
from auditkit.models.taps import tap_activations
from auditkit.testing import toy_model


class Wide(nn.Module):
    """Convolutions whose results lie with channels last, and vectors of 150 units."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 5, 3, padding=1).to(memory_format=torch.channels_last)
        self.head = nn.Linear(5 * 64, 150)

    def forward(self, images):
        features = self.first(images.to(memory_format=torch.channels_last)).relu()
        return nn.functional.silu(self.head(features.flatten(1)))


KINDS = [*NETWORKS, Gelu, Wide]
IMAGES = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
IDS = [f"s{at:02}" for at in range(40)]
CPU = torch.device("cpu")
# Products of tiny matrices are rounded otherwise in some rows than in others, which is not the profile's doing.
ROWWISE = [Shared, Functional, Relatives, Wide]


def subject(kind):
    torch.manual_seed(0)
    model = toy_model(Wide() if kind is Wide else rectified(kind), IMAGES)
    return model.exact, model.sites, calibrate_activations(model.exact, model.sites, IMAGES[:20], IDS[:20])


def gathered(model, sites, images=IMAGES):
    """Return for each site float64 (N, C, P)."""
    found = [[] for _ in sites]

    def tap(number, values, rows):
        values = values[:rows].movedim(sites[number].channel_axis + 1, 1).double()
        found[number].append(values.reshape(*values.shape[:2], -1))

    tap_activations(model, sites, images, tap)
    return [torch.cat(parts).numpy() for parts in found]


@pytest.fixture(autouse=True)
def _same_random_state():
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_numbers_of_an_image_are_what_they_say(kind):
    model, sites, calibration = subject(kind)
    found = profile_activations(model, sites, calibration, IMAGES)
    start = 0
    for number, values in enumerate(gathered(model, sites)):
        units = values.shape[1]
        mean = calibration.mean[start : start + units, None]
        deviation = calibration.deviation[start : start + units, None]
        start += units
        np.testing.assert_allclose(found.largest[:, number], np.abs(values).max((1, 2)), rtol=1e-6)
        mass = np.abs(values).sum(2)
        ranked = np.sort(mass, axis=1)[:, ::-1]
        top = ranked[:, : max(1, -(-units // 100))].sum(1)
        np.testing.assert_allclose(found.top_unit[:, number], ranked[:, 0] / mass.sum(1), rtol=1e-5)
        np.testing.assert_allclose(found.top_share[:, number], top / mass.sum(1), rtol=1e-5)
        effective = mass.sum(1) ** 2 / (mass**2).sum(1) / units
        np.testing.assert_allclose(found.effective_share[:, number], effective, rtol=1e-4)
        distance = np.abs(values - mean)
        certain = np.abs(distance - OUTLIER * deviation) > 1e-5
        sure = ((distance > OUTLIER * deviation) & certain).mean((1, 2))
        assert (found.outliers[:, number] >= sure - 1e-12).all()
        assert (found.outliers[:, number] <= sure + (~certain).mean((1, 2)) + 1e-12).all()
    np.testing.assert_allclose(found.last_norm, np.linalg.norm(mass / values.shape[2], axis=1), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_totals_are_those_of_all_values_together(kind):
    model, sites, calibration = subject(kind)
    totals = ActivationTotals.none(sites, CPU)
    found = profile_activations(model, sites, calibration, IMAGES, totals, exact_moments=True)
    for number, values in enumerate(gathered(model, sites)):
        histogram = MagnitudeHistogram(totals.counts[number].numpy(), float(totals.largest[number]))
        assert histogram.total == values.size
        assert histogram.zeros == (values == 0).sum()
        for share in (0.5, 0.9, 0.99, 0.999):
            wanted = np.quantile(np.abs(values), share, method="inverted_cdf")
            assert histogram.quantile(share) == pytest.approx(wanted, rel=0.004)
        np.testing.assert_allclose(
            totals.powers[number].numpy(), [(values**power).sum() for power in (1, 2, 3, 4)], rtol=1e-12
        )
        assert totals.largest[number] == np.abs(values).max()
        np.testing.assert_array_equal(totals.unit_highest[number], values.max((0, 2)))
        np.testing.assert_allclose(totals.unit_mass[number], np.abs(values).sum((0, 2)), rtol=1e-5)
        assert totals.outliers[number] == round((found.outliers[:, number] * values[0].size).sum())
    assert not totals.not_finite.any()


def test_powers_are_summed_where_there_are_negative_values_and_nowhere_else():
    model, sites, calibration = subject(Wide)
    totals = ActivationTotals.none(sites, CPU)
    profile_activations(model, sites, calibration, IMAGES, totals)
    assert [site.function for site in sites] == ["relu", "silu"]
    assert totals.powers[:, 1].ne(0).tolist() == [False, True]


def arrays(totals):
    parts = vars(totals).values()
    return [np.asarray(array) for part in parts for array in (part if isinstance(part, tuple) else (part,))]


@settings(max_examples=8, deadline=None)
@given(kind=st.sampled_from(ROWWISE), cut=st.integers(0, 40), batch=st.sampled_from([1, 7, 16, 33]))
def test_batches_and_shards_change_nothing(kind, cut, batch):
    model, sites, calibration = subject(kind)
    wanted, whole = ActivationTotals.none(sites, CPU), profile_activations(model, sites, calibration, IMAGES)
    profile_activations(model, sites, calibration, IMAGES, wanted)
    parts = []
    for images in (IMAGES[:cut], IMAGES[cut:]):
        if len(images):
            totals = ActivationTotals.none(sites, CPU)
            parts.append((totals, profile_activations(replace(model, batch=batch), sites, calibration, images, totals)))
    for name, values in vars(whole).items():
        np.testing.assert_array_equal(np.concatenate([getattr(found, name) for _, found in parts]), values)
    merged = [np.array(array) for array in arrays(parts[0][0])]
    largest = [False, False, False, False, True, *[False] * len(sites), *[True] * len(sites)]
    for totals, _ in parts[1:]:
        pairs = zip(merged, arrays(totals), largest, strict=True)
        merged = [np.maximum(one, other) if take else one + other for one, other, take in pairs]
    for got, array in zip(merged, arrays(wanted), strict=True):
        if array.dtype.kind == "i":
            np.testing.assert_array_equal(got, array)
        else:
            np.testing.assert_allclose(got, array, rtol=1e-12)


def test_several_threads_count_what_one_counts():
    model, sites, calibration = subject(Wide)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            totals = ActivationTotals.none(sites, CPU)
            found.append((profile_activations(model, sites, calibration, IMAGES, totals), totals))
    finally:
        torch.set_num_threads(before)
    for statistics, totals in found[1:]:
        assert torch.equal(totals.counts, found[0][1].counts)
        for name, values in vars(statistics).items():
            np.testing.assert_array_equal(values, getattr(found[0][0], name))


class Overflowing(nn.Module):
    def forward(self, images):
        features = torch.relu(images.flatten(1) - 0.2)
        features = torch.relu(torch.where(features > 0.7, torch.inf, features))
        return torch.where(features.isinf(), 1.0, features)[:, :3]


def test_infinite_values_are_counted_apart():
    found = toy_model(Overflowing(), IMAGES)
    model, sites = found.exact, found.sites
    calibration = calibrate_activations(model, sites, IMAGES, IDS)
    totals = ActivationTotals.none(sites, CPU)
    found = profile_activations(model, sites, calibration, IMAGES, totals, exact_moments=True)
    values = gathered(model, sites)[1]
    finite = np.where(np.isfinite(values), values, 0)
    assert totals.not_finite.tolist() == [0, int(np.isinf(values).sum())]
    assert totals.counts[1].sum() == np.isfinite(values).sum()
    assert totals.counts[1, 0] == (values == 0).sum()
    np.testing.assert_allclose(totals.powers[1].numpy()[0], finite.sum(), rtol=1e-12)
    np.testing.assert_allclose(found.largest[:, 1], finite.max((1, 2)), rtol=1e-6)
    assert all(np.isfinite(values).all() for values in vars(found).values())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_calibration_is_mean_deviation_and_median_of_the_largest(kind):
    model, sites, _ = subject(kind)
    calibration = calibrate_activations(model, sites, IMAGES, IDS)
    values = gathered(model, sites)
    means = np.concatenate([one.mean((0, 2)) for one in values])
    deviations = np.concatenate([one.std((0, 2)) for one in values])
    np.testing.assert_allclose(calibration.mean, means, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(calibration.deviation, deviations, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(calibration.typical_largest, [np.median(np.abs(one).max((1, 2))) for one in values])


def test_calibration_knows_no_order_and_no_batch():
    model, sites, _ = subject(Wide)
    wanted = calibrate_activations(model, sites, IMAGES, IDS).arrays()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5)).tolist()
    got = calibrate_activations(replace(model, batch=7), sites, IMAGES[order], [IDS[row] for row in order]).arrays()
    for name, array in wanted.items():
        np.testing.assert_array_equal(got[name], array)
    again = ActivationCalibration.of(wanted).arrays()
    assert all(np.array_equal(again[name], wanted[name]) for name in wanted)


def test_kurtosis_of_the_totals_is_that_of_scipy():
    from auditkit.activations import Moments

    model, sites, calibration = subject(Wide)
    totals = ActivationTotals.none(sites, CPU)
    profile_activations(model, sites, calibration, IMAGES, totals, exact_moments=True)
    for number, values in enumerate(gathered(model, sites)):
        moments = Moments(int(totals.counts[number].sum()), totals.powers[number].numpy())
        assert moments.kurtosis == pytest.approx(scipy.stats.kurtosis(values, axis=None, fisher=False), rel=1e-9)
