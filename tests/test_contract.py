"""What breaks the contract of a check is refused in one line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_findings import FOOLED, GROUPS, MAPPED, OTHER, OWN, SPEC, columns

from auditkit.check import Curve, Exhibit, Findings, Metric, Panel, Spec, Tally
from auditkit.contract import check_findings
from auditkit.errors import ExecutionError


def picture(array):
    return (Exhibit("s", "c", 1.0, (Panel("p", "heat", array),)),)


def test_findings_as_they_should_be_are_taken():
    check_findings(SPEC, Findings(columns(), forwards=np.arange(4), backwards=np.zeros(4, np.int32)), 4)


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
        check_findings(SPEC, findings, 4)
    assert str(caught.value).startswith("made.up returned ")
    assert "\n" not in str(caught.value)


def test_a_metric_whose_denominator_is_missing_is_refused():
    lone = Spec("made.up", "t", "w", (Metric("success", "fooled", "t", among="absent"),))
    with pytest.raises(ExecutionError, match="no column absent, which its metric success needs"):
        check_findings(lone, Findings(columns()), 4)


@pytest.mark.parametrize("missing", ["distance", "clean"])
def test_a_curve_over_a_column_that_is_missing_is_refused(missing):
    drawn = Curve("robust_accuracy", "Robust accuracy", "distance", column="distance", among="clean")
    spec = Spec("made.up", "t", "w", (Metric("m", "fooled", "t"),), curves=(drawn,))
    with pytest.raises(ExecutionError, match=f"no column {missing}, which its curve of robust_accuracy needs"):
        check_findings(spec, Findings(columns(**{missing: None})), 4)


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
        check_findings(SPEC, findings, 4)
        return
    with pytest.raises(ExecutionError, match=words):
        check_findings(SPEC, findings, 4)


def test_a_map_whose_columns_are_missing_is_refused():
    with pytest.raises(ExecutionError, match="no column row, which its map 'Where it lies' needs"):
        check_findings(MAPPED, Findings(columns()), 4)


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
        check_findings(SPEC, findings, 4)
        return
    with pytest.raises(ExecutionError, match=words):
        check_findings(SPEC, findings, 4)


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
def test_groups_that_break_the_contract_are_refused_in_one_line(own, other, words):
    tables = [
        {name: column for name, column in {**plain, **changed}.items() if column is not None}
        for plain, changed in ((OWN, own), (OTHER, other))
    ]
    with pytest.raises(ExecutionError, match=words) as caught:
        check_findings(GROUPS, Findings(tables[0], others=tables[1]), 5)
    assert "\n" not in str(caught.value)


def test_a_curve_counts_among_samples_or_among_the_others_and_never_mixes_them():
    mixed = Curve("auroc", "t", "x", column="ood_score", among="seen")
    with pytest.raises(ExecutionError, match="no column seen, which its curve of auroc needs"):
        check_findings(replace(GROUPS, curves=(mixed,)), Findings(OWN, others=OTHER), 5)
    lone = replace(GROUPS, metrics=(), curves=(Curve("auroc", "t", "x", column="after", against="before"),))
    with pytest.raises(ExecutionError, match="no column before, which its curve of auroc needs"):
        check_findings(lone, Findings({"after": np.zeros(5)}), 5)


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
def test_a_comparison_that_says_too_little_or_too_much_is_refused_where_it_is_written(wrong, words):
    """Else a TPR whose author forgot the false alarms would be shown as an AUROC."""
    with pytest.raises(ValueError, match=words):
        Metric("m", "a", "t", **wrong)
