"""Columns are reduced to metrics, curves, maps and flags rightly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_findings import FOOLED, GROUPS, MAPPED, OTHER, OWN, SPEC, columns

from auditkit.check import Curve, Findings, Metric, Spec
from auditkit.contract import check_findings
from auditkit.findings import curves, flags, maps, metrics
from auditkit.separation import auroc, fpr_at_tpr, roc, tpr_at_fpr
from auditkit.stats import mean, median, proportion


def test_metrics_count_over_all_or_over_those_that_are_asked_for():
    estimates, titles = metrics(SPEC, columns())
    assert estimates["clean_accuracy"] == proportion(3, 4)
    assert estimates["robust_accuracy"] == proportion(1, 4)
    assert estimates["success"] == proportion(2, 3)
    assert estimates["distance"] == mean(np.array([0.5, 0.7]))
    assert estimates["median_distance"] == median(np.array([0.5, 0.7]))
    assert titles["success"] == "Fooled, of the correct"
    assert set(titles) == set(estimates)


def test_a_metric_that_no_sample_counts_for_is_left_out():
    estimates, titles = metrics(SPEC, columns(fooled=np.zeros(4, bool)))
    assert "distance" not in estimates
    assert "distance" not in titles
    assert estimates["success"] == proportion(0, 3)


def with_budgets():
    none, some = np.zeros(4, bool), np.array([False, True, False, False])
    return columns(robust=None, **{"robust@2/255": some, "robust@10/255": none, "fooled@10/255": FOOLED & some})


def test_the_plain_name_stands_for_the_largest_budget_not_for_the_last_name():
    estimates, _ = metrics(SPEC, with_budgets())
    assert estimates["robust_accuracy@2/255"] == proportion(1, 4)
    assert estimates["robust_accuracy@10/255"] == estimates["robust_accuracy"] == proportion(0, 4)
    assert estimates["success@10/255"] == proportion(0, 3)


def test_a_denominator_may_have_a_budget_of_its_own():
    spec = Spec("made.up", "t", "w", (Metric("m", "value", "t", "mean", among="seen"),))
    given_ = {
        "value@1": np.array([1.0, 2.0]),
        "value@2": np.array([1.0, 2.0]),
        "seen": np.array([True, True]),
        "seen@2": np.array([False, True]),
    }
    estimates, _ = metrics(spec, given_)
    assert (estimates["m@1"].value, estimates["m@2"].value) == (1.5, 2.0)


def test_a_curve_rises_in_budget_and_starts_at_the_clean_accuracy():
    estimates, _ = metrics(SPEC, with_budgets())
    (curve,) = curves(SPEC, estimates)
    assert [(point.x, point.label) for point in curve.points] == [
        (0.0, "0"),
        (2 / 255, "2/255"),
        (10 / 255, "10/255"),
    ]
    assert curve.points[0].estimate == proportion(3, 4)
    assert (curve.y_label, curve.x_label) == ("robust accuracy", "budget")


def column_curve(distances, clean, among="clean"):
    """Return the curve over a column of distances, as (x, how many of all samples lie beyond it) pairs."""
    drawn = Curve("robust_accuracy", "Robust accuracy", "distance", column="distance", among=among)
    spec = Spec("made.up", "t", "w", (Metric("clean_accuracy", "clean", "t"),), curves=(drawn,))
    table = {"distance": np.array(distances, dtype=float), "clean": np.array(clean)}
    check_findings(spec, Findings(table), len(clean))
    (curve,) = curves(spec, {}, table)
    assert {point.label for point in curve.points} == {f"{point.x:.3g}" for point in curve.points}
    assert all(
        point.estimate == proportion(round(point.estimate.value * len(clean)), len(clean)) for point in curve.points
    )
    return [(point.x, round(point.estimate.value * len(clean))) for point in curve.points]


def test_a_curve_over_a_column_is_the_share_of_all_samples_that_lie_beyond_each_value():
    nan = np.nan
    assert column_curve([0.2, nan, 0.1, nan, 0.2], [True, True, True, False, True]) == [(0.0, 4), (0.1, 3), (0.2, 1)]
    assert column_curve([nan, nan], [True, False]) == [(0.0, 1)]
    assert column_curve([0.5, nan], [False, False]) == [(0.0, 0)]
    assert column_curve([1, 2, np.inf], [False, True, True], among=None) == [(0.0, 3), (1.0, 2), (2.0, 1)]


@given(st.lists(st.one_of(st.floats(1e-4, 10), st.just(np.nan)), min_size=1, max_size=300), st.randoms())
def test_a_curve_over_a_column_has_few_points_true_at_each_and_knows_no_order(distances, random):
    shuffled = random.sample(distances, len(distances))
    points = column_curve(distances, [True] * len(distances))
    assert points == column_curve(shuffled, [True] * len(distances))
    assert points[0] == (0.0, len(distances))
    assert len(points) <= 25
    counts = [sum(not value <= x for value in distances) for x, _ in points]
    assert [count for _, count in points] == counts == sorted(counts, reverse=True)
    everywhere = {0.0, *(float(f"{value:.3g}") for value in distances if not np.isnan(value))}
    assert len(distances) > 24 or {x for x, _ in points} == everywhere


@pytest.mark.parametrize(("fooled", "raised"), [(2, ["made.weak"]), (1, [])])
def test_a_flag_is_raised_beyond_its_threshold_only(fooled, raised):
    estimates = {"success": proportion(fooled, 3)}
    found = flags(SPEC, "made.up@b", estimates)
    assert [flag.id for flag in found] == raised
    assert all(flag.check == "made.up@b" and flag.remedy == "train" for flag in found)
    assert flags(SPEC, "k", {"success": proportion(1, 2)}) == ()


def test_a_map_counts_how_many_samples_name_each_place():
    places = {"row": np.array([0, 1, 1, np.nan]), "column": np.array([2, 0, 0, 1])}
    (picture_,) = maps(MAPPED, places, 2, 3)
    assert picture_.panels[0].array.tolist() == [[0, 0, 1], [2, 0, 0]]
    assert picture_.caption == "Where it lies (3 images)"


def test_places_outside_the_image_and_nowhere_at_all_are_no_error():
    outside = {"row": np.array([5, -1, np.nan, 0]), "column": np.array([0, 0, 0, 9])}
    assert maps(MAPPED, outside, 2, 3) == []


COUNTED = np.array([0.4, 0.6]), np.array([0.1, 0.5, -np.inf, 0.2])


class TestTwoGroups:
    """Samples beside other images: each kind of metric gets the groups in the right order, without NaN."""

    def test_metrics_compare_the_one_group_with_the_other(self):
        check_findings(GROUPS, Findings(OWN, others=OTHER), 5)
        estimates, titles = metrics(GROUPS, OWN, OTHER)
        assert estimates == {
            "auroc": auroc(*COUNTED),
            "tpr": tpr_at_fpr(*COUNTED, 0.2),
            "fpr": fpr_at_tpr(*COUNTED, 0.8),
            "ood_mean": mean(np.array([0.4, 0.6])),
            "mean": mean(np.array([0.1, 0.5, 0.2])),
        }
        assert (estimates["auroc"].value, estimates["auroc"].n) == (7 / 8, 6)
        assert titles["tpr"] == "TPR"

    def test_groups_may_both_be_of_the_samples(self):
        """Scores of images as they are and attacked, say."""
        spec = replace(GROUPS, metrics=(Metric("m", "after", "t", "auroc", against="before"),), curves=())
        table = {"after": np.array([3, 4]), "before": np.array([1, 5])}
        check_findings(spec, Findings(table), 2)
        assert metrics(spec, table)[0] == {"m": auroc(table["after"], table["before"])}

    @pytest.mark.parametrize("empty", ["score", "ood_score"])
    def test_a_comparison_with_nobody_is_left_out(self, empty):
        nothing = np.full(5 if empty == "score" else 3, np.nan)
        own, other = ({name: nothing if name == empty else c for name, c in t.items()} for t in (OWN, OTHER))
        own["seen"], other["ood_seen"] = np.zeros(5, bool), np.zeros(3, bool)
        estimates, titles = metrics(GROUPS, own, other)
        assert estimates == titles == {}
        assert curves(GROUPS, estimates, own, other)[0].points == ()

    def test_a_curve_of_two_groups_is_their_roc(self):
        curve, beyond = curves(GROUPS, {}, OWN, OTHER)
        assert [(point.x, point.estimate) for point in curve.points] == roc(*COUNTED)
        assert [point.label for point in curve.points] == ["0 %", "25 %", "50 %", "75 %", "100 %"]
        assert (curve.figure, curve.line) == ("both", "one")
        assert [(point.x, point.estimate) for point in beyond.points] == [
            (0.0, proportion(2, 3)),
            (0.4, proportion(1, 3)),
            (0.6, proportion(0, 3)),
        ]
