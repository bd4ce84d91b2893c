"""Telling two groups apart: values are scikit-learn's for any scores, intervals cover as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import roc_auc_score, roc_curve

from auditkit.separation import auroc, fpr_at_tpr, roc, tpr_at_fpr
from auditkit.stats import proportion

WILD = st.floats(allow_nan=False, allow_infinity=False)
GROUP = st.lists(st.one_of(WILD, st.integers(-3, 3).map(float)), min_size=1, max_size=40)
RANKS = st.lists(st.integers(0, 4), min_size=1, max_size=30)
RATE = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.05, 0.95, 1.0]))
# Values that are 1 apart in the last place of a float64.
CLOSE = st.lists(st.integers(0, 4).map(lambda steps: 1e6 + steps * math.ulp(1e6)), min_size=1, max_size=30)


def curve_of(positives, negatives):
    """Return the points of scikit-learn's curve as (false alarms, hits), in images."""
    truth = np.repeat([1, 0], [len(positives), len(negatives)])
    fpr, tpr, _ = roc_curve(truth, [*positives, *negatives], drop_intermediate=False)
    return np.round(fpr * len(negatives)).astype(int), np.round(tpr * len(positives)).astype(int)


class TestValues:
    @given(st.one_of(GROUP, CLOSE), st.one_of(GROUP, CLOSE))
    def test_the_auroc_is_scikit_learns_for_scores_of_any_size_and_spacing(self, positives, negatives):
        truth = np.repeat([1, 0], [len(positives), len(negatives)])
        wanted = roc_auc_score(truth, [*positives, *negatives])
        assert auroc(np.array(positives), np.array(negatives)).value == pytest.approx(wanted, abs=1e-12)

    @pytest.mark.parametrize(("mean", "spread"), [(30, 5), (300, 50), (1e6, 1e5)])
    def test_unbounded_scores_are_not_squashed_into_ties(self, mean, spread):
        """A sigmoid before the ranking, as torchmetrics has it, gives 0.5 here."""
        g = np.random.default_rng(0)
        positives, negatives = g.normal(mean + 2 * spread, spread, 300), g.normal(mean, spread, 400)
        wanted = roc_auc_score(np.repeat([1, 0], [300, 400]), [*positives, *negatives])
        assert wanted > 0.9
        assert auroc(positives, negatives).value == pytest.approx(wanted, abs=1e-12)

    def test_infinite_scores_lie_beyond_all_others_and_tie_among_themselves(self):
        positives, negatives = np.array([np.inf, np.inf, 0.0]), np.array([np.inf, -np.inf])
        assert auroc(positives, negatives).value == pytest.approx((2 * (0.5 + 1) + 1) / 6, abs=1e-15)
        assert tpr_at_fpr(positives, negatives, 0.5).value == 1.0
        assert tpr_at_fpr(positives, negatives, 0.0).value == 0.0
        assert roc(positives, negatives)[-1][1].value == 1.0

    @given(GROUP, GROUP, RATE)
    def test_rates_are_the_best_points_of_scikit_learns_curve(self, positives, negatives, rate):
        alarms, hits = curve_of(positives, negatives)
        groups = np.array(positives), np.array(negatives)
        allowed = alarms <= rate * len(negatives) + 1e-9
        assert tpr_at_fpr(*groups, rate).value == hits[allowed].max() / len(positives)
        reached = hits >= rate * len(positives) - 1e-9
        assert fpr_at_tpr(*groups, rate).value == alarms[reached].min() / len(negatives)

    @given(GROUP, GROUP, st.integers(2, 9))
    def test_the_points_of_a_curve_lie_on_scikit_learns(self, positives, negatives, points):
        drawn = roc(np.array(positives), np.array(negatives), points)
        wanted = set(zip(*(axis.tolist() for axis in curve_of(positives, negatives)), strict=True))
        found = [(round(x * len(negatives)), round(e.value * len(positives))) for x, e in drawn]
        assert set(found) <= wanted
        assert found == sorted(found)
        assert found[0][0] == 0
        assert found[-1] == (len(negatives), len(positives))
        assert len(found) <= points
        assert len(found) == min(points, len(set(negatives)) + 1)

    def test_a_rate_is_no_image_off_for_being_a_rounded_number(self):
        """0.29 times 100 is 28.999999999999996."""
        scores = np.arange(100.0)
        assert tpr_at_fpr(scores, scores, 0.29).value == 0.29
        assert fpr_at_tpr(scores, scores, 0.29).value == 0.29


class TestIntervals:
    @given(GROUP, GROUP, RATE, st.randoms())
    def test_an_interval_holds_its_value_and_knows_no_order(self, positives, negatives, rate, random):
        groups = np.array(positives), np.array(negatives)
        mixed = [np.array(random.sample(group, len(group))) for group in (positives, negatives)]
        for estimates in (
            [auroc(*groups), auroc(*mixed)],
            [tpr_at_fpr(*groups, rate), tpr_at_fpr(*mixed, rate)],
            [fpr_at_tpr(*groups, rate), fpr_at_tpr(*mixed, rate)],
        ):
            assert estimates[0] == estimates[1]
            assert 0 <= estimates[0].low <= estimates[0].value <= estimates[0].high <= 1
            assert estimates[0].n == len(positives) + len(negatives)

    @given(RANKS, RANKS, st.lists(WILD, min_size=5, max_size=5, unique=True))
    def test_only_the_order_of_the_scores_counts(self, positives, negatives, values):
        scores = np.sort(values)
        assert auroc(scores[positives], scores[negatives]) == auroc(np.array(positives), np.array(negatives))
        for measure in (tpr_at_fpr, fpr_at_tpr):
            by_rank = measure(np.array(positives), np.array(negatives), 0.3)
            assert measure(scores[positives], scores[negatives], 0.3) == by_rank

    @given(GROUP, GROUP)
    def test_the_auroc_of_swapped_groups_is_the_mirror_image(self, positives, negatives):
        one, other = auroc(np.array(positives), np.array(negatives)), auroc(np.array(negatives), np.array(positives))
        assert (one.value, one.low, one.high) == pytest.approx((1 - other.value, 1 - other.high, 1 - other.low))

    def test_for_large_groups_the_interval_is_delongs(self):
        """Its variance computed here in the plain way, from the share of pairs that each image wins."""
        g = np.random.default_rng(3)
        positives, negatives = g.normal(1, 1, 3000), g.normal(0, 2, 2000)
        wins = (positives[:, None] > negatives).astype(float)
        error = math.sqrt(wins.mean(1).var(ddof=1) / 3000 + wins.mean(0).var(ddof=1) / 2000)
        found = auroc(positives, negatives)
        wanted = special.expit(
            special.logit(found.value) + 1.959964 * np.array([-1, 1]) * error / (found.value * (1 - found.value))
        )
        assert (found.low, found.high) == pytest.approx(wanted, abs=0.03 * error)

    @pytest.mark.parametrize(("p", "m"), [(20, 20), (100, 600), (600, 100), (3, 40)])
    def test_perfect_separation_is_no_certainty(self, p, m):
        """Were one image of the smaller group in so many misplaced, separation would still be seen once in 40 times."""
        found = auroc(np.arange(p) + 1e6, np.arange(m) * 1.0)
        assert found.value == found.high == 1
        assert found.low == pytest.approx(0.025 ** (1 / min(p, m)))
        assert auroc(np.arange(m) * 1.0, np.arange(p) + 1e6).high == pytest.approx(1 - found.low)

    @pytest.mark.parametrize(("p", "m"), [(1, 1), (1, 500), (500, 1)])
    def test_a_group_of_one_image_shows_next_to_nothing(self, p, m):
        found = auroc(np.arange(p) + 0.5, np.arange(m) - 500.0)
        assert (found.value, found.low, found.high) == (1.0, pytest.approx(0.025), 1.0)

    def test_a_pair_out_of_place_never_raises_the_lower_end(self):
        perfect = auroc(np.arange(20.0) + 20, np.arange(20.0))
        nearly = auroc(np.array([18.5, *np.arange(21.0, 40)]), np.arange(20.0))
        assert nearly.value < perfect.value
        assert nearly.low < perfect.low

    @pytest.mark.parametrize(("rate", "needed"), [(0.05, 86), (0.01, 437)])
    def test_too_few_negatives_leave_the_lower_end_at_zero(self, rate, needed):
        few, enough = (tpr_at_fpr(np.full(50, 1e9), np.arange(n) * 1.0, rate) for n in (needed - 1, needed))
        assert (few.value, few.low) == (1.0, 0.0)
        assert enough.low == proportion(50, 50, 0.975).low

    def test_the_ends_are_exact_bounds_at_order_statistics(self):
        """Of 200 negatives, 4 to 16 lie above the true threshold, but for 1.25 % of the cases on each side."""
        positives, negatives = np.arange(0.5, 200, 4), np.arange(200.0)
        fewest, most = 4, 17
        assert stats.binom.cdf(fewest - 1, 200, 0.05) <= 0.0125 < stats.binom.cdf(fewest, 200, 0.05)
        assert stats.binom.sf(most, 200, 0.05) <= 0.0125 < stats.binom.sf(most - 1, 200, 0.05)
        found = tpr_at_fpr(positives, negatives, 0.05)
        hits = [int((positives > 200 - rank).sum()) for rank in (fewest, most + 1)]
        assert (found.low, found.high) == (proportion(hits[0], 50, 0.975).low, proportion(hits[1], 50, 0.975).high)

    def test_few_positives_widen_a_false_positive_rate(self):
        """A threshold from 100 positives is known less well than one from 10,000."""
        negatives = stats.norm.ppf((np.arange(400) + 0.5) / 400)
        few, many = (fpr_at_tpr(stats.norm.ppf((np.arange(n) + 0.5) / n) + 2, negatives, 0.95) for n in (100, 10_000))
        assert few.value == pytest.approx(many.value, abs=0.02)
        assert few.high - few.low > 1.5 * (many.high - many.low)
        assert many.high - many.low > proportion(round(400 * many.value), 400).high - many.value


# Where the truth is known: normal scores (equal and unequal spread), and a rare positive that lies on the wrong side.
SHAPES = {
    "normal": (lambda g, n: g.normal(0, 1, n), lambda g, n: g.normal(0, 1, n)),
    "wide positives": (lambda g, n: g.normal(0, 3, n), lambda g, n: g.normal(0, 1, n)),
    "wide negatives": (lambda g, n: g.normal(0, 1, n), lambda g, n: g.normal(0, 3, n)),
}
SPREADS = {"normal": (1, 1), "wide positives": (3, 1), "wide negatives": (1, 3)}


class TestCoverage:
    """Small simulations from fixed seeds; `python -m benchmarks.coverage` runs large ones."""

    @pytest.mark.parametrize("shape", list(SHAPES))
    @pytest.mark.parametrize(("p", "m"), [(20, 20), (100, 600)])
    @pytest.mark.parametrize("truth", [0.6, 0.9, 0.99])
    def test_the_auroc_is_inside_as_often_as_the_interval_says(self, shape, p, m, truth):
        draw_positives, draw_negatives = SHAPES[shape]
        shift = stats.norm.ppf(truth) * math.hypot(*SPREADS[shape])
        g = np.random.default_rng([p, round(100 * truth)])
        found = [auroc(draw_positives(g, p) + shift, draw_negatives(g, m)) for _ in range(400)]
        missed = sum(not one.low <= truth <= one.high for one in found)
        assert missed <= 400 * 0.05 + 2 * math.sqrt(400 * 0.05 * 0.95)

    @pytest.mark.parametrize("group", ["positives", "negatives"])
    def test_a_rare_image_far_on_the_wrong_side_is_reckoned_with(self, group):
        """DeLong's interval has no width until one is seen."""
        g = np.random.default_rng(5)
        missed = 0
        for _ in range(1000):
            misplaced = g.random(30) < 0.05
            if group == "positives":
                found = auroc(np.where(misplaced, -9.0, 9.0), g.normal(0, 1, 60))
            else:
                found = auroc(g.normal(0, 1, 60), np.where(misplaced, 9.0, -9.0))
            missed += not found.low <= 0.95 <= found.high
        assert missed <= 50

    @pytest.mark.parametrize("shape", list(SHAPES))
    @pytest.mark.parametrize(("p", "m"), [(50, 50), (600, 100), (100, 600)])
    @pytest.mark.parametrize("rate", [0.01, 0.05])
    def test_the_rates_are_inside_as_often_as_the_intervals_say(self, shape, p, m, rate):
        """Without the error of the threshold, the interval at 600 and 100 images would hold the truth half the time."""
        draw_positives, draw_negatives = SHAPES[shape]
        own, other = SPREADS[shape]
        tpr = stats.norm.sf(stats.norm.isf(rate) * other - 2, scale=own)
        fpr = stats.norm.sf(2 + stats.norm.ppf(rate) * own, scale=other)
        g = np.random.default_rng([p, round(100 * rate)])
        missed = 0
        for _ in range(200):
            groups = draw_positives(g, p) + 2, draw_negatives(g, m)
            hits, alarms = tpr_at_fpr(*groups, rate), fpr_at_tpr(*groups, 1 - rate)
            missed += (not hits.low <= tpr <= hits.high) + (not alarms.low <= fpr <= alarms.high)
        assert missed <= 20


@pytest.mark.parametrize(
    "measure", [auroc, roc, lambda p, m: tpr_at_fpr(p, m, 0.1), lambda p, m: fpr_at_tpr(p, m, 0.9)]
)
@pytest.mark.parametrize(
    ("positives", "negatives"), [([], [1.0]), ([1.0], []), ([math.nan, 1], [1]), ([1], [math.nan]), ([[1.0]], [1.0])]
)
def test_nothing_to_compare_is_refused(measure, positives, negatives):
    with pytest.raises(ValueError, match="at least one score, and no NaN"):
        measure(np.array(positives), np.array(negatives))


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize("measure", [tpr_at_fpr, fpr_at_tpr])
def test_a_rate_that_is_none_is_refused(measure, rate):
    with pytest.raises(ValueError, match=r"a rate lies in \[0, 1\]"):
        measure(np.ones(3), np.zeros(3), rate)
