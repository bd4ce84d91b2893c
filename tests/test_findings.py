"""Findings: what breaks the contract is refused in one line, what keeps it is reduced rightly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditkit.check import Curve, Exhibit, Findings, FlagRule, Map, Metric, Panel, Spec, Tally
from auditkit.errors import ExecutionError
from auditkit.findings import check_columns, curves, flags, join_others, maps, metrics, top_exhibits
from auditkit.separation import auroc, fpr_at_tpr, roc, tpr_at_fpr
from auditkit.stats import mean, median, proportion

SPEC = Spec(
    id="made.up",
    title="t",
    why="w",
    metrics=(
        Metric("clean_accuracy", "clean", "Clean"),
        Metric("robust_accuracy", "robust", "Robust"),
        Metric("success", "fooled", "Fooled, of the correct", among="clean"),
        Metric("distance", "distance", "Distance", "mean", among="fooled"),
        Metric("median_distance", "distance", "Median distance", "median", among="fooled"),
    ),
    curves=(Curve("robust_accuracy", "Robust accuracy", "budget"),),
    flags=(
        FlagRule("made.weak", "success", above=0.5, text="weak", remedy="train"),
        FlagRule("made.gone", "absent", above=0.0, text="never", remedy="none"),
    ),
)
FOOLED = np.array([True, False, True, False])


def columns(**changed):
    plain = {
        "clean": np.array([True, True, True, False]),
        "robust": np.array([False, True, False, False]),
        "fooled": FOOLED,
        "distance": np.array([0.5, np.nan, 0.7, np.nan]),
        "extra": np.arange(4),
    }
    return {name: column for name, column in {**plain, **changed}.items() if column is not None}


def picture(array):
    return (Exhibit("s", "c", 1.0, (Panel("p", "heat", array),)),)


def test_findings_as_they_should_be_are_taken():
    check_columns(SPEC, Findings(columns(), forwards=np.arange(4), backwards=np.zeros(4, np.int32)), 4)


@pytest.mark.parametrize(
    ("findings", "words"),
    [
        (Findings(columns(extra=np.arange(3))), r"column extra of shape \(3,\); wanted \(4,\)"),
        (Findings(columns(extra=np.zeros((4, 1)))), r"column extra of shape \(4, 1\)"),
        (Findings(columns(extra=[1, 2, 3, 4])), "column extra of shape list"),
        (Findings(columns(extra=np.array(list("abcd")))), "column extra of type <U1"),
        (Findings(columns(extra=np.array([None] * 4))), "column extra of type object"),
        (Findings(columns(robust=None)), "no column robust, which its metric robust_accuracy needs"),
        (Findings(columns(robust=FOOLED.astype(int))), "column robust of int64; a share needs bool"),
        (
            Findings(columns(**{"robust@8/255": FOOLED.astype(float)})),
            "column robust@8/255 of float64; a share needs bool",
        ),
        (Findings(columns(clean=None)), "no column clean"),
        (Findings(columns(distance=np.array([0.5, 0, np.nan, 0]))), "NaN or infinity in column distance"),
        (Findings(columns(distance=np.array([0.5, 0, np.inf, 0]))), "NaN or infinity in column distance"),
        (Findings(columns(), forwards=np.arange(3)), r"forwards that are not \(4,\) integers"),
        (Findings(columns(), backwards=np.full(4, np.nan)), r"backwards that are not \(4,\) integers"),
        (Findings(columns(), forwards=[1, 2, 3, 4]), r"forwards that are not \(4,\) integers"),
        (Findings(columns(), (Exhibit("s", "c", float("nan"), ()),)), "exhibit of s with score nan"),
        (Findings(columns(), picture(None)), "panel that is no array"),
        (Findings(columns(), picture(np.array([{}]))), "panel that is no array"),
    ],
)
def test_each_breach_of_the_contract_has_an_error_of_one_line(findings, words):
    with pytest.raises(ExecutionError, match=words) as caught:
        check_columns(SPEC, findings, 4)
    assert str(caught.value).startswith("made.up returned ")
    assert "\n" not in str(caught.value)


def test_a_metric_whose_denominator_is_missing_is_refused():
    lone = Spec("made.up", "t", "w", (Metric("success", "fooled", "t", among="absent"),))
    with pytest.raises(ExecutionError, match="no column absent, which its metric success needs"):
        check_columns(lone, Findings(columns()), 4)


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
    check_columns(spec, Findings(table), len(clean))
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


@pytest.mark.parametrize("missing", ["distance", "clean"])
def test_a_curve_over_a_column_that_is_missing_is_refused(missing):
    drawn = Curve("robust_accuracy", "Robust accuracy", "distance", column="distance", among="clean")
    spec = Spec("made.up", "t", "w", (Metric("m", "fooled", "t"),), curves=(drawn,))
    with pytest.raises(ExecutionError, match=f"no column {missing}, which its curve of robust_accuracy needs"):
        check_columns(spec, Findings(columns(**{missing: None})), 4)


@pytest.mark.parametrize(("fooled", "raised"), [(2, ["made.weak"]), (1, [])])
def test_a_flag_is_raised_beyond_its_threshold_only(fooled, raised):
    estimates = {"success": proportion(fooled, 3)}
    found = flags(SPEC, "made.up@b", estimates)
    assert [flag.id for flag in found] == raised
    assert all(flag.check == "made.up@b" and flag.remedy == "train" for flag in found)
    assert flags(SPEC, "k", {"success": proportion(1, 2)}) == ()


SHOWN = [Exhibit(name, "", score, ()) for name, score in [("b", 1.0), ("a", 1.0), ("c", 2.0), ("d", 0.5)]]


def test_an_image_that_every_shard_shows_hangs_once_in_the_gallery():
    """One of the second data set is no sample of any shard, so all of them show it."""
    shown = [Exhibit("ood: a", "a cat", 2.0, ()), Exhibit("ood: b", "a dog", 1.0, ())]
    assert top_exhibits([*shown, *SHOWN, *shown], 3) == [SHOWN[2], shown[0], SHOWN[1]]
    same_image = Exhibit("ood: a", "a cat from another side", 2.0, ())
    assert top_exhibits([shown[0], same_image, shown[0]], 9) == [shown[0], same_image]


@given(st.permutations(SHOWN), st.integers(0, 5))
def test_the_gallery_does_not_depend_on_the_order_of_shards(exhibits, count):
    names = [exhibit.sample for exhibit in top_exhibits(exhibits, count)]
    assert names == ["c", "a", "b", "d"][:count]


ATTACKED = np.zeros((2, 3, 4, 4), dtype=np.uint16)


@pytest.mark.parametrize(
    ("attacked", "found", "words"),
    [
        (ATTACKED, FOOLED, None),
        (None, None, None),
        (ATTACKED, None, "2 attacked images; wanted one for each true `found`"),
        (ATTACKED[:1], FOOLED, "1 attacked images; wanted one for each true `found`"),
        (ATTACKED.astype(np.uint8), FOOLED, "not uint16"),
        (ATTACKED[0], FOOLED, "not uint16"),
        ([1, 2], FOOLED, "not uint16"),
    ],
)
def test_attacked_images_are_those_of_the_samples_that_were_found(attacked, found, words):
    """Who reads them counts on it: one image too few, and every later one is taken for another sample's."""
    findings = Findings(columns(found=found), attacked=attacked)
    if words is None:
        check_columns(SPEC, findings, 4)
        return
    with pytest.raises(ExecutionError, match=words):
        check_columns(SPEC, findings, 4)


MAPPED = replace(SPEC, maps=(Map("Where it lies", "row", "column"),))


def test_a_map_counts_how_many_samples_name_each_place():
    places = {"row": np.array([0, 1, 1, np.nan]), "column": np.array([2, 0, 0, 1])}
    (picture_,) = maps(MAPPED, places, 2, 3)
    assert picture_.panels[0].array.tolist() == [[0, 0, 1], [2, 0, 0]]
    assert picture_.caption == "Where it lies (3 images)"


def test_places_outside_the_image_and_nowhere_at_all_are_no_error():
    outside = {"row": np.array([5, -1, np.nan, 0]), "column": np.array([0, 0, 0, 9])}
    assert maps(MAPPED, outside, 2, 3) == []


def test_a_map_whose_columns_are_missing_is_refused():
    with pytest.raises(ExecutionError, match="no column row, which its map 'Where it lies' needs"):
        check_columns(MAPPED, Findings(columns()), 4)


GROUPS = replace(
    SPEC,
    metrics=(
        Metric("auroc", "ood_score", "AUROC", "auroc", against="score"),
        Metric("tpr", "ood_score", "TPR", "tpr", against="score", at=0.2),
        Metric("fpr", "ood_score", "FPR", "fpr", against="score", at=0.8),
        Metric("ood_mean", "ood_score", "Mean", "mean", among="ood_seen"),
        Metric("mean", "score", "Mean", "mean", among="seen"),
    ),
    curves=(
        Curve("auroc", "ROC", "false alarms", column="ood_score", against="score", figure="both", line="one"),
        Curve("ood_mean", "Beyond", "score", column="ood_score", among="ood_seen"),
    ),
    flags=(),
)
OWN = {"score": np.array([0.1, np.nan, 0.5, -np.inf, 0.2]), "seen": np.array([True, False, True, False, True])}
OTHER = {"ood_score": np.array([0.4, 0.6, np.nan]), "ood_seen": np.array([True, True, False])}
COUNTED = np.array([0.4, 0.6]), np.array([0.1, 0.5, -np.inf, 0.2])


class TestTwoGroups:
    """Samples beside other images: each kind of metric gets the groups in the right order, without NaN."""

    def test_metrics_compare_the_one_group_with_the_other(self):
        check_columns(GROUPS, Findings(OWN, others=OTHER), 5)
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
        check_columns(spec, Findings(table), 2)
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

    @pytest.mark.parametrize(
        ("own", "other", "words"),
        [
            ({"score": None}, {}, "no column score, which its metric auroc needs"),
            ({}, {"ood_score": None}, "no column ood_score, which its metric auroc needs"),
            ({}, {"ood_seen": None}, "no column ood_seen, which its metric ood_mean needs"),
            ({}, {"ood_seen": np.ones(3, bool)}, "NaN or infinity in column ood_score"),
            ({}, {"ood_score": np.zeros((3, 1))}, r"numbers ood_score about other images that are not \(M,\)"),
            ({}, {"ood_score": [1.0, 2.0, 3.0]}, r"numbers ood_score about other images that are not \(M,\)"),
            ({}, {"ood_score": np.array(["a", "b", "c"])}, r"numbers ood_score about other images that are not \(M,\)"),
            ({"ood_score": np.zeros(5)}, {}, "ood_score about the samples and about other images"),
        ],
    )
    def test_groups_that_break_the_contract_are_refused_in_one_line(self, own, other, words):
        tables = [
            {name: column for name, column in {**plain, **changed}.items() if column is not None}
            for plain, changed in ((OWN, own), (OTHER, other))
        ]
        with pytest.raises(ExecutionError, match=words) as caught:
            check_columns(GROUPS, Findings(tables[0], others=tables[1]), 5)
        assert "\n" not in str(caught.value)

    def test_a_curve_counts_among_samples_or_among_the_others_and_never_mixes_them(self):
        mixed = Curve("auroc", "t", "x", column="ood_score", among="seen")
        with pytest.raises(ExecutionError, match="no column seen, which its curve of auroc needs"):
            check_columns(replace(GROUPS, curves=(mixed,)), Findings(OWN, others=OTHER), 5)
        lone = replace(GROUPS, metrics=(), curves=(Curve("auroc", "t", "x", column="after", against="before"),))
        with pytest.raises(ExecutionError, match="no column before, which its curve of auroc needs"):
            check_columns(lone, Findings({"after": np.zeros(5)}), 5)

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"kind": "auroc"}, "of kind auroc names two groups"),
            ({"kind": "tpr", "at": 0.1}, "of kind tpr names two groups"),
            ({"kind": "mean", "against": "b"}, "of kind mean has one group"),
            ({"kind": "auroc", "against": "b", "among": "c"}, "and no among"),
            ({"kind": "tpr", "against": "b"}, "`at` goes with the kinds tpr and fpr, and they need it"),
            ({"kind": "fpr", "against": "b"}, "`at` goes with"),
            ({"kind": "auroc", "against": "b", "at": 0.1}, "`at` goes with"),
            ({"at": 0.1}, "`at` goes with"),
        ],
    )
    def test_a_comparison_that_says_too_little_or_too_much_is_refused_where_it_is_written(self, wrong, words):
        """Else a TPR whose author forgot the false alarms would be shown as an AUROC."""
        with pytest.raises(ValueError, match=words):
            Metric("m", "a", "t", **wrong)

    def test_every_shard_says_the_same_of_other_images(self):
        assert join_others([OTHER, {name: column.copy() for name, column in OTHER.items()}]) is OTHER
        for changed in ({"ood_score": OTHER["ood_score"][:2]}, {"ood_score": OTHER["ood_score"] + 1}, {}):
            part = {name: column for name, column in {**OTHER, **changed}.items() if changed or name != "ood_seen"}
            with pytest.raises(ExecutionError, match="different numbers about other images"):
                join_others([OTHER, part])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([1.0, np.inf]), None),
        (np.array([[1, 2]]), None),
        (np.array([1.0, np.nan]), "NaN in tally counts"),
        (np.array([True]), "tally counts that is no array of numbers"),
        (np.array(["a"]), "tally counts that is no array of numbers"),
        ([1, 2], "tally counts that is no array of numbers"),
    ],
)
def test_a_tally_is_an_array_of_numbers(array, words):
    findings = Findings(columns(), tallies={"counts": Tally(array)})
    if words is None:
        check_columns(SPEC, findings, 4)
        return
    with pytest.raises(ExecutionError, match=words):
        check_columns(SPEC, findings, 4)
