"""Intervals that hold at every look: by simulation, by theory, and never at the price of the stated error rate."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from auditkit.anytime import _evidence_above, _winnings, anytime_change, anytime_share
from auditkit.paired import paired_share
from auditkit.stats import proportion

share_of = functools.cache(anytime_share)
change_of = functools.cache(anytime_change)


@pytest.mark.parametrize(
    ("successes", "n", "share"), [(0, 10, 0.2), (7, 20, 0.2), (7, 20, 0.34), (20, 20, 0.7), (300, 600, 0.45)]
)
def test_a_share_is_ruled_out_exactly_where_the_averaged_likelihood_ratio_says_so(successes, n, share):
    def likelihood(p):
        return p**successes * (1 - p) ** (n - successes) / (share**successes * (1 - share) ** (n - successes))

    above = integrate.quad(likelihood, share, 1, limit=200)[0] / (1 - share)
    below = integrate.quad(likelihood, 0, share, limit=200)[0] / share
    estimate = anytime_share(successes, n)
    assert (estimate.low > share) == (above > 40)
    assert (estimate.high < share) == (below > 40)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), n=st.integers(1, 2000))
def test_the_interval_of_a_share_holds_the_value_and_is_no_narrower_than_the_one_for_a_single_look(data, n):
    successes = data.draw(st.integers(0, n))
    always, once = anytime_share(successes, n), proportion(successes, n)
    assert 0 <= always.low <= always.value <= always.high <= 1
    assert always.low <= once.low + 1e-9
    assert always.high >= once.high - 1e-9
    mirrored = anytime_share(n - successes, n)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((always.low, always.high), abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), n=st.integers(1, 2000))
def test_the_interval_of_a_change_holds_the_value_and_turns_with_the_direction(data, n):
    lost = data.draw(st.integers(0, n))
    gained = data.draw(st.integers(0, n - lost))
    change = anytime_change(lost, gained, n)
    assert -1 <= change.low <= change.value <= change.high <= 1
    back = anytime_change(gained, lost, n)
    assert (-back.high, -back.low) == pytest.approx((change.low, change.high), abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(data=st.data(), n=st.integers(1, 400))
def test_what_is_ruled_out_are_all_values_beyond_the_ends_so_that_the_ends_tell_all(data, n):
    successes = data.draw(st.integers(0, n))
    estimate = anytime_share(successes, n)
    shares = np.linspace(1e-6, estimate.value, 200)[:-1]
    evidence = np.array([_evidence_above(share, successes, n) for share in shares])
    assert (np.diff(evidence) <= 1e-9).all(), "otherwise a value below the lower end might not be ruled out"


def looks(most, every=32):
    return [*range(every, most, every), most]


@pytest.mark.parametrize("share", [0.1, 0.4, 0.5, 0.75, 0.95])
def test_whoever_looks_after_every_few_images_errs_no_more_often_than_the_interval_says(share):
    """The chance is exact: all ways to get there are followed, and those that stopped in error are counted."""
    most, at, wrong = 640, {0: 1.0}, {"low": 0.0, "high": 0.0}
    before = 0
    for n in looks(most):
        steps = stats.binom.pmf(np.arange(n - before + 1), n - before, share)
        reached: dict[int, float] = {}
        for successes, chance in at.items():
            for more, step in enumerate(steps):
                if chance * step > 1e-15:
                    reached[successes + more] = reached.get(successes + more, 0.0) + chance * step
        at = {}
        for successes, chance in reached.items():
            estimate = share_of(successes, n)
            if estimate.low > share:
                wrong["low"] += chance
            elif estimate.high < share:
                wrong["high"] += chance
            else:
                at[successes] = chance
        before = n
    assert wrong["low"] <= 0.025
    assert wrong["high"] <= 0.025
    assert wrong["low"] + wrong["high"] > 0.005, "or nothing was ever decided, and the test shows nothing"
    assert sum(at.values()) + sum(wrong.values()) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_the_interval_for_a_single_look_would_err_far_more_often(share):
    rng = np.random.default_rng(1)
    seen = np.cumsum(rng.random((400, 640)) < share, axis=1)
    wrong = 0
    for row in seen:
        estimates = (proportion(int(row[n - 1]), n) for n in looks(640))
        wrong += any(not estimate.low <= share <= estimate.high for estimate in estimates)
    assert wrong / 400 > 0.1


@pytest.mark.parametrize(("lost", "gained"), [(0.02, 0.0), (0.05, 0.03), (0.2, 0.1), (0.1, 0.1)])
def test_whoever_looks_at_changes_errs_no_more_often_than_the_interval_says(lost, gained):
    rng = np.random.default_rng(2)
    drawn, truth = rng.random((1200, 640)), lost - gained
    falls, rises = np.cumsum(drawn < lost, axis=1), np.cumsum(drawn > 1 - gained, axis=1)
    wrong = {"low": 0, "high": 0}
    for fell, rose in zip(falls.tolist(), rises.tolist(), strict=True):
        seen = [(fell[n - 1], rose[n - 1], n) for n in looks(640, 128)]
        wrong["low"] += any(_winnings(truth, *counts) > math.log(40) for counts in seen)
        wrong["high"] += any(_winnings(-truth, rose, fell, n) > math.log(40) for fell, rose, n in seen)
    # As many as 2.5 % of 1200 runs would have, and three standard deviations on top.
    assert max(wrong.values()) <= 30 + 3 * np.sqrt(30 * 0.975)
    assert sum(wrong.values()) > 0, "or no bet was ever won, and the test shows nothing"


@pytest.mark.parametrize(("lost", "gained", "n"), [(12, 3, 64), (0, 9, 128), (40, 40, 640)])
def test_the_ends_of_a_change_are_where_bets_against_it_win(lost, gained, n):
    change = anytime_change(lost, gained, n)
    for beyond, won in ((0.001, False), (-0.001, True)):
        assert (_winnings(change.low + beyond, lost, gained, n) > math.log(40)) is won
        assert (_winnings(-change.high + beyond, gained, lost, n) > math.log(40)) is won


@pytest.mark.parametrize(("threshold", "share"), [(0.4, 0.55), (0.4, 0.25), (0.5, 0.65), (0.5, 0.35), (0.8, 0.95)])
def test_a_value_that_is_fifteen_points_away_is_decided_with_a_third_of_600_images(threshold, share):
    rng = np.random.default_rng(3)
    seen = np.cumsum(rng.random((300, 600)) < share, axis=1)
    used, right = [], 0
    for row in seen:
        for n in looks(600):
            estimate = share_of(int(row[n - 1]), n)
            if estimate.low > threshold or estimate.high < threshold:
                right += (estimate.low > threshold) == (share > threshold)
                break
        used.append(n)
    assert np.mean(used) <= 600 / 3
    assert right >= 0.975 * 300


def test_a_change_that_is_far_from_its_limit_is_decided_early():
    rng = np.random.default_rng(4)
    drawn = rng.random((100, 600))
    falls, rises = np.cumsum(drawn < 0.01, axis=1), np.cumsum(drawn > 0.99, axis=1)
    used = []
    for fell, rose in zip(falls, rises, strict=True):
        for n in looks(600):
            if change_of(int(fell[n - 1]), int(rose[n - 1]), n).high < 0.1:
                break
        used.append(n)
    assert np.mean(used) <= 600 / 3


def test_bets_find_what_the_interval_for_a_single_look_finds_with_not_much_more():
    once, always = paired_share(30, 10, 600), anytime_change(30, 10, 600)
    assert once.high - once.low < always.high - always.low < 2 * (once.high - once.low)


@pytest.mark.parametrize("counts", [(-1, 5), (6, 5), (0, 0)])
def test_counts_that_cannot_be_are_refused(counts):
    with pytest.raises(ValueError, match="a share needs"):
        anytime_share(*counts)
    with pytest.raises(ValueError, match="a change needs"):
        anytime_change(counts[0], 0, counts[1])
