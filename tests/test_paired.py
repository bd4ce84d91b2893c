"""Paired differences: the interval errs as often as it says, by full enumeration, and the tests agree with scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from auditkit.paired import _score, holm, paired_mean, paired_median, paired_share, sign_test


def outcomes(n):
    """Return all (lost, gained) of n images, and the log of how many ways lead there."""
    lost, gained = (grid.ravel() for grid in np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij"))
    possible = lost + gained <= n
    lost, gained = lost[possible], gained[possible]
    ways = special.gammaln(n + 1) - sum(special.gammaln(part + 1) for part in (lost, gained, n - lost - gained))
    return lost, gained, ways


@pytest.mark.parametrize("n", [20, 50, 90])
@pytest.mark.parametrize("limit", [0.0, 0.02, 0.1])
def test_a_model_that_lost_just_too_much_passes_by_luck_at_most_once_in_forty(n, limit):
    lost, gained, ways = outcomes(n)
    passes = np.array(
        [paired_share(*pair, n).high <= limit for pair in zip(lost.tolist(), gained.tolist(), strict=True)]
    )
    assert passes.any() or limit < 0.1, "or the test shows nothing"
    for gained_share in (0.001, 0.01, 0.03, 0.1, 0.2, 0.4):
        shares = gained_share + limit, gained_share
        rest = 1 - sum(shares)
        if rest <= 0:
            continue
        chance = np.exp(
            ways + lost * np.log(shares[0]) + gained * np.log(shares[1]) + (n - lost - gained) * np.log(rest)
        )
        assert chance[passes].sum() <= 0.025


def test_the_ends_are_where_the_score_statistic_reaches_the_quantile_of_the_normal():
    estimate = paired_share(9, 1, 44)
    for end, corrected in ((estimate.high, (9, 1)), (-estimate.low, (1, 9))):
        assert _score(*corrected, 44, end) == pytest.approx(-stats.norm.ppf(0.975), abs=1e-6)


@settings(deadline=None, max_examples=80)
@given(data=st.data(), n=st.integers(1, 3000))
def test_the_interval_holds_the_difference_and_turns_with_the_direction(data, n):
    lost = data.draw(st.integers(0, n))
    gained = data.draw(st.integers(0, n - lost))
    change, back = paired_share(lost, gained, n), paired_share(gained, lost, n)
    assert -1 <= change.low <= change.value <= change.high <= 1
    assert (-back.high, -back.low) == pytest.approx((change.low, change.high), abs=1e-9)


def test_pairs_tell_more_than_two_separate_runs():
    change = paired_share(12, 2, 400)
    assert change.low > 0, "14 images that differ, 12 of them one way, are no accident"


def test_the_sign_test_is_the_exact_one_of_scipy():
    first, second = np.array([1.0, 2, 3, 4, 5, 6, 6]), np.array([0.0, 1, 2, 3, 4, 7, 6])
    assert sign_test(first, second) == pytest.approx(stats.binomtest(5, 6, 0.5).pvalue)
    assert sign_test(first, first) == 1.0


def test_means_and_medians_are_those_of_the_differences():
    first, second = np.array([3.0, 5, 9, 4, 4, 6, 7, 8]), np.array([1.0, 4, 9, 2, 1, 6, 5, 3])
    wanted = stats.ttest_rel(first, second).confidence_interval(0.95)
    found = paired_mean(first, second)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert paired_median(first, second).value == 2.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_p_values_for_all_questions_together_are_those_of_holm(values):
    p_values = np.array(values)
    adjusted = holm(p_values)
    order = np.argsort(p_values, kind="stable")
    largest = 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * p_values[at]))
        assert adjusted[at] == largest


@pytest.mark.parametrize("counts", [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_counts_that_cannot_be_are_refused(counts):
    with pytest.raises(ValueError, match="a change needs"):
        paired_share(*counts)
