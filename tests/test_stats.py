"""Intervals: known values, and the coverage that they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from auditkit.stats import Estimate, images_to_decide, mean, median, proportion, ratio


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 100, 0.0, 0.03621669),
        (100, 100, 0.96378331, 1.0),
        (5, 10, 0.18708603, 0.81291397),
        (1, 1, 0.025, 1.0),
    ],
)
def test_the_exact_interval_has_its_published_values(successes, n, low, high):
    estimate = proportion(successes, n)
    assert (estimate.value, estimate.n) == (successes / n, n)
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-7)


@pytest.mark.parametrize("n", [1, 7, 50])
def test_the_interval_of_a_share_never_covers_less_often_than_it_says(n):
    intervals = [proportion(successes, n) for successes in range(n + 1)]
    truth = np.linspace(0.001, 0.999, 999)
    covered = np.zeros_like(truth)
    for successes, interval in enumerate(intervals):
        inside = (interval.low <= truth) & (truth <= interval.high)
        covered += inside * stats.binom.pmf(successes, n, truth)
    assert covered.min() >= 0.95


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5), (0, -1)])
def test_an_impossible_share_is_refused(successes, n):
    with pytest.raises(ValueError, match="a share needs"):
        proportion(successes, n)


def limits(estimate):
    return estimate.low, estimate.value, estimate.high


@given(st.integers(2, 80), st.data())
def test_one_object_an_image_makes_a_ratio_a_share(n, data):
    part = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=int)
    found = ratio(part, np.ones(n, dtype=int))
    assert limits(found) == pytest.approx(limits(proportion(int(part.sum()), n)), abs=1e-9)
    assert (found.n, found.method) == (n, "Korn-Graubard (objects grouped by image)")


def test_images_without_objects_change_no_ratio():
    part, whole = np.array([1, 0, 3, 2, 1]), np.array([1, 2, 3, 5, 1])
    assert ratio(np.r_[part, 0, 0, 0], np.r_[whole, 0, 0, 0]) == ratio(part, whole)


def test_objects_that_share_their_images_fate_count_as_one_and_the_interval_is_that_much_wider():
    fate = np.arange(40) % 4 == 0
    clustered, single = ratio(5 * fate, np.full(40, 5)), proportion(10, 40)
    assert (clustered.value, clustered.n) == (0.25, 200)
    # 200 objects: 199/195 of 40 of them in effect, and Student's factor for 40 images on top.
    size = 200 * 195 / (5 * 199) * (stats.t.ppf(0.975, 199) / stats.t.ppf(0.975, 39)) ** 2
    wanted = stats.beta.ppf(0.025, size / 4, size * 3 / 4 + 1), stats.beta.ppf(0.975, size / 4 + 1, size * 3 / 4)
    assert (clustered.low, clustered.high) == pytest.approx(wanted, abs=1e-9)
    assert clustered.low < single.low
    assert clustered.high > single.high


def test_objects_that_are_alike_within_no_image_count_in_full_but_for_the_few_images():
    spread = ratio(np.ones(200), np.full(200, 5))
    size = 1000 * (stats.t.ppf(0.975, 999) / stats.t.ppf(0.975, 199)) ** 2
    assert spread.high == pytest.approx(stats.beta.ppf(0.975, size / 5 + 1, size * 4 / 5), abs=1e-9)


@pytest.mark.parametrize("images", [10, 100])
def test_one_loss_in_many_objects_says_no_more_of_unseen_images_than_no_loss(images):
    whole, part = np.full(images, 50), np.eye(1, images)[0]
    none, single = ratio(0 * whole, whole), ratio(part, whole)
    assert none.high < single.high
    assert ratio(whole - part, whole).low == pytest.approx(1 - single.high, abs=1e-9)


@pytest.mark.parametrize("share", [0, 1])
def test_a_ratio_without_variance_is_worth_its_images_not_its_objects(share):
    whole = np.array([7, 0, 3, 12, 1])
    assert limits(ratio(share * whole, whole)) == limits(proportion(4 * share, 4))


counts = st.integers(0, 9).flatmap(lambda whole: st.tuples(st.integers(0, whole), st.just(whole)))


@given(st.lists(counts, min_size=1, max_size=30).filter(lambda rows: any(whole for _, whole in rows)), st.randoms())
def test_a_ratio_lies_in_its_interval_and_knows_no_order(rows, random):
    found = ratio(*np.array(rows).T)
    assert 0 <= found.low <= found.value <= found.high <= 1
    random.shuffle(rows)
    assert ratio(*np.array(rows).T) == found


def test_means_over_draws_make_a_ratio_though_they_miss_a_last_digit():
    whole = np.full(3, 0.1 + 0.2)
    assert ratio(np.full(3, 0.3), whole).n == 1
    assert ratio(np.array([0.1 + 0.2, 0.3]), np.array([0.3, 0.3])).value == 1
    assert ratio(np.array([0.3]), np.array([0.3])).n == 1
    part = np.random.default_rng(0).random((50, 200))
    assert all(ratio(each, 3 * each) == ratio(each[::-1], 3 * each[::-1]) for each in part)


@pytest.mark.parametrize(
    ("part", "whole", "problem"),
    [
        ([], [], "at least one object"),
        ([0, 0], [0, 0], "at least one object"),
        ([2, 0], [1, 5], "0 <= part <= whole"),
        ([-1, 0], [1, 5], "0 <= part <= whole"),
        ([float("nan")], [1], "0 <= part <= whole"),
        ([1], [float("inf")], "finite counts"),
        ([1, 1], [1], "0 <= part <= whole"),
    ],
)
def test_a_ratio_of_nothing_or_of_more_than_all_is_refused(part, whole, problem):
    with pytest.raises(ValueError, match=problem):
        ratio(np.array(part), np.array(whole))


def test_a_mean_has_students_interval():
    values = np.random.default_rng(0).normal(3, 2, 30)
    estimate = mean(values)
    wanted = stats.t.interval(0.95, 29, loc=values.mean(), scale=stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx(wanted)
    assert (estimate.value, estimate.n) == (pytest.approx(values.mean()), 30)


@given(st.permutations(list(np.random.default_rng(1).normal(1, 1, 9))))
def test_not_a_digit_of_a_mean_depends_on_the_order(values):
    assert mean(np.array(values)) == mean(np.array(sorted(values)))


def test_whole_numbers_have_a_mean_and_one_value_is_its_own_interval():
    assert mean(np.array([1, 2, 3])).value == 2
    single = mean(np.array([0.3]))
    assert (single.low, single.value, single.high, single.n) == (0.3, 0.3, 0.3, 1)
    constant = mean(np.array([2.0, 2.0]))
    assert (constant.low, constant.high) == (2.0, 2.0)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_nothing_or_not_a_number_has_no_mean(values):
    with pytest.raises(ValueError, match="a mean needs"):
        mean(np.array(values))


@pytest.mark.parametrize(
    ("n", "first", "last"), [(6, 1, 6), (8, 1, 8), (9, 2, 8), (10, 2, 9), (20, 6, 15), (100, 40, 61)]
)
def test_a_median_lies_between_the_ranks_of_the_published_tables(n, first, last):
    values = np.random.default_rng(n).permutation(np.arange(1, n + 1))
    estimate = median(values)
    assert (estimate.low, estimate.value, estimate.high, estimate.n) == (first, (n + 1) / 2, last, n)


@pytest.mark.parametrize("n", [6, 7, 25, 60])
def test_the_interval_of_a_median_covers_as_often_as_it_says_and_the_next_smaller_one_does_not(n):
    estimate = median(np.arange(1, n + 1))
    outside = int(estimate.low) - 1
    assert 1 - 2 * stats.binom.cdf(outside, n, 0.5) >= 0.95
    assert 1 - 2 * stats.binom.cdf(outside + 1, n, 0.5) < 0.95


def test_the_median_of_few_values_has_the_widest_interval_and_says_so():
    five, six = median(np.arange(5)), median(np.arange(6))
    assert (five.low, five.value, five.high) == (0, 2, 4)
    assert (five.method, six.method) == ("smallest to largest value", "order statistics")
    single = median(np.array([0.3]))
    assert (single.low, single.value, single.high, single.method) == (0.3, 0.3, 0.3, "smallest to largest value")


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.floats(-5, 5), st.floats(0.5, 2))
def test_a_median_moves_with_its_values_and_knows_no_order(values, shift, scale):
    values = np.array(values)
    plain, moved = median(values), median(values[::-1] * scale + shift)
    assert plain.low <= plain.value <= plain.high
    for name in ("low", "value", "high"):
        assert getattr(moved, name) == pytest.approx(getattr(plain, name) * scale + shift, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_nothing_or_not_a_number_has_no_median(values):
    with pytest.raises(ValueError, match="a median needs"):
        median(np.array(values))


def test_a_lopsided_interval_is_decided_by_the_side_on_which_the_threshold_lies():
    now = Estimate(value=1.0, low=0.8, high=3.0, n=100, method="order statistics")
    assert images_to_decide(now, 0.9) == pytest.approx(400, abs=1)
    assert images_to_decide(now, 1.1) == pytest.approx(40_000, abs=1)


@settings(deadline=None, max_examples=25)
@given(data=st.data(), n=st.integers(2, 300), threshold=st.floats(0.02, 0.98))
def test_as_many_images_as_it_says_really_decide(data, n, threshold):
    now = proportion(data.draw(st.integers(0, n)), n)
    needed = images_to_decide(now, threshold, proportion)
    if needed is None:
        assert abs(now.value - threshold) < 2e-3
        return
    then = proportion(round(now.value * needed), needed)
    assert not then.low <= threshold <= then.high
    if now.low <= threshold <= now.high:
        assert needed > n
        sooner = proportion(round(now.value * (needed // 2)), needed // 2)
        assert needed < 200 or sooner.low <= threshold <= sooner.high, "half as many would do"


def test_more_images_never_settle_a_value_on_the_threshold_or_a_hair_beside_it():
    assert images_to_decide(proportion(50, 100), 0.5, proportion) is None
    assert images_to_decide(proportion(50, 100), 0.5 + 1e-7, proportion) is None


def test_a_mean_is_decided_when_its_interval_has_shrunk_to_the_threshold():
    now = Estimate(value=1.0, low=0.8, high=1.2, n=100, method="Student t")
    needed = images_to_decide(now, 1.1)
    assert needed == pytest.approx(400, abs=1)
    assert 0.2 * (100 / needed) ** 0.5 <= 0.1 + 1e-9
    assert images_to_decide(now, 1.0 + 1e-6) is None


def test_no_number_of_images_settles_an_interval_beyond_all_numbers():
    now = Estimate(value=1e300, low=-1.7e308, high=1.7e308, n=8, method="Student t")
    assert images_to_decide(now, 0.4) is None
    assert images_to_decide(now, 1.1e300) is None
