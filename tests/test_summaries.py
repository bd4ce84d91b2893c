"""From shards to one picture: tallies add up, conclusions are stored as they are, the worst class stands on top."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from auditkit.check import Conclusion, FlagRule, Grid, Metric, Profile, ProfileLine, Spec, Table, Tally
from auditkit.errors import ExecutionError
from auditkit.findings import flags, metrics
from auditkit.separation import auroc
from auditkit.stats import mean, proportion
from auditkit.summaries import class_estimates, class_table, concluded, grid_tables, merge_tallies

KINDS = {"sum": np.sum, "largest": np.max, "least": np.min}
VALUES = st.lists(st.integers(-9, 9), min_size=3, max_size=3)


def shard(values):
    array = np.array(values)
    return {kind: Tally(array, kind) for kind in KINDS}


class TestTallies:
    @given(st.lists(VALUES, min_size=1, max_size=6), st.data())
    def test_shards_are_one_element_by_element_in_whatever_order_and_parts(self, parts, data):
        merged = merge_tallies([shard(values) for values in data.draw(st.permutations(parts))])
        assert list(merged) == list(KINDS)
        for kind, reduce in KINDS.items():
            np.testing.assert_array_equal(merged[kind], reduce(np.array(parts), axis=0))
        cut = data.draw(st.integers(1, len(parts)))
        halves = [merge_tallies([shard(values) for values in half]) for half in (parts[:cut], parts[cut:]) if half]
        again = merge_tallies([{kind: Tally(array, kind) for kind, array in half.items()} for half in halves])
        for kind, array in merged.items():
            np.testing.assert_array_equal(again[kind], array)

    def test_the_tallies_of_a_shard_stay_as_they_are(self):
        """They are read from the store, and may be merged again."""
        first = shard([1, 2, 3])
        merge_tallies([first, shard([4, 5, 6]), shard([7, 8, 9])])
        assert first["sum"].array.tolist() == [1, 2, 3]

    def test_no_tallies_are_none(self):
        assert merge_tallies([{}, {}]) == {}

    @pytest.mark.parametrize(
        ("other", "words"),
        [
            ({}, r"different tallies: \['sum'\] and \[\]"),
            ({"other": Tally(np.zeros(2))}, "different tallies"),
            ({"sum": Tally(np.zeros(3))}, "tallies sum that cannot be combined"),
            ({"sum": Tally(np.zeros(1))}, "tallies sum that cannot be combined"),
            ({"sum": Tally(np.zeros(2), "largest")}, "tallies sum that cannot be combined"),
        ],
    )
    def test_shards_that_do_not_fit_together_are_refused(self, other, words):
        with pytest.raises(ExecutionError, match=words):
            merge_tallies([{"sum": Tally(np.zeros(2))}, other])


def test_a_conclusion_is_stored_as_it_is():
    table = Table("Layers", ("layer", "units", "largest"), (("conv1", 16, 2.5), ("head", 10, None)))
    lines = (ProfileLine("clean", (1.0, None)), ProfileLine("attacked", (2.0, 3.0)))
    profile = Profile("Loudness", "layer", "largest", ("conv1", "head"), lines, logarithmic=True)
    (stored_table,), (stored_profile,) = concluded(Conclusion((table,), (profile,)))
    assert (stored_table.title, stored_table.columns, stored_table.rows) == (table.title, table.columns, table.rows)
    assert stored_profile.lines == {"clean": (1.0, None), "attacked": (2.0, 3.0)}
    assert (stored_profile.places, stored_profile.logarithmic) == (("conv1", "head"), True)
    assert (stored_profile.title, stored_profile.x_label, stored_profile.y_label) == ("Loudness", "layer", "largest")
    assert concluded(Conclusion()) == ((), ())


def spec(*by_class, worst="least"):
    metrics = (
        Metric("accuracy", "right", "Right"),
        Metric("distance", "distance", "Distance", "mean", among="right"),
        Metric("robust", "robust", "Robust"),
        Metric("auroc", "unlike", "AUROC", "auroc", against="score"),
    )
    return Spec("made.up", "t", "w", metrics, by_class=by_class, worst=worst)


LABELS = np.array([2, 0, 2, 0, 2, 1])
COLUMNS = {
    "right": np.array([True, True, False, True, False, False]),
    "distance": np.array([0.5, 0.2, 0.1, 0.4, 0.9, 0.7]),
    "robust@1/255": np.array([True, True, False, True, False, False]),
    "robust@2/255": np.array([False, True, False, False, False, False]),
    "score": np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
}
OTHERS = {"unlike": np.array([2.5, 4.5])}


def table_of(spec, *given):
    return class_table(spec, class_estimates(spec, *given))


class TestClasses:
    def test_the_worst_class_stands_on_top_with_the_estimates_of_its_own_images(self):
        table = table_of(spec("accuracy", "distance"), COLUMNS, LABELS, None, OTHERS)
        assert table.columns == ("class", "images", "Right", "Distance")
        assert table.rows == (
            ("class 1", 1, proportion(0, 1), None),
            ("class 2", 3, proportion(1, 3), mean(np.array([0.5]))),
            ("class 0", 2, proportion(2, 2), mean(np.array([0.2, 0.4]))),
        )

    def test_where_large_values_are_bad_the_largest_stands_on_top(self):
        table = table_of(spec("distance", worst="largest"), COLUMNS, LABELS, ("a", "b", "c"), OTHERS)
        assert [row[0] for row in table.rows] == ["c", "a"], "no image of b counts, so b has no row"

    def test_a_class_without_the_first_value_comes_last_whatever_its_others(self):
        table = table_of(spec("distance", "accuracy"), COLUMNS, LABELS, ("a", "b", "c"), OTHERS)
        assert [(row[0], row[2] is None) for row in table.rows] == [("a", False), ("c", False), ("b", True)]

    def test_a_budget_may_be_named_and_the_plain_name_is_the_largest(self):
        table = table_of(spec("robust@1/255", "robust"), COLUMNS, LABELS, None, OTHERS)
        by_name = {row[0]: row[2:] for row in table.rows}
        assert by_name["class 0"] == (proportion(2, 2), proportion(1, 2))

    def test_each_class_is_compared_with_all_other_images(self):
        table = table_of(spec("auroc"), COLUMNS, LABELS, None, OTHERS)
        by_name = {row[0]: row[2] for row in table.rows}
        assert by_name["class 0"] == auroc(OTHERS["unlike"], np.array([1.0, 3.0]))
        assert by_name["class 2"] == auroc(OTHERS["unlike"], np.array([0.0, 2.0, 4.0]))

    def test_metrics_that_nobody_asks_for_are_not_needed(self):
        """Numbers about other images, say, of a check that has none in this audit."""
        assert table_of(spec("accuracy"), COLUMNS, LABELS, None) is not None

    def test_labels_beyond_the_names_are_numbers(self):
        table = table_of(spec("accuracy"), COLUMNS, LABELS, ("a", "b"))
        assert {row[0] for row in table.rows} == {"a", "b", "class 2"}

    @pytest.mark.parametrize("by_class", [(), ("absent",), ("accuracy@9",)])
    def test_without_anything_to_show_there_is_no_table(self, by_class):
        assert table_of(spec(*by_class), COLUMNS, LABELS, None, OTHERS) is None


class TestFlagsOfClasses:
    RULE = FlagRule("made.up", "accuracy", 0.5, "Some classes are recognised.", "None.", each_class=True)

    def raised(self, right):
        wanted = replace(spec("accuracy"), flags=(self.RULE,))
        labels = np.repeat([0, 1], 20)
        columns = {"right": np.array(right)}
        classes = class_estimates(wanted, columns, labels, ("a", "b"))
        everything, _ = metrics(replace(wanted, metrics=wanted.metrics[:1]), columns)
        return flags(wanted, "made.up", everything, classes.estimates)

    def test_one_class_of_many_is_enough_and_is_named(self):
        (flag,) = self.raised([False] * 20 + [True] * 19 + [False])
        assert flag.text.startswith("Some classes are recognised. b: 0.95 (")
        assert "a:" not in flag.text

    def test_a_class_that_may_be_beyond_by_chance_raises_nothing(self):
        """12 of 20 lie beyond one half, but their interval does not."""
        assert self.raised([True] * 12 + [False] * 8 + [False] * 20) == ()

    def test_all_samples_together_raise_nothing(self):
        """27 of 40 with no class beyond the threshold for sure."""
        assert self.raised([True] * 13 + [False] * 7 + [True] * 14 + [False] * 6) == ()


class TestGrids:
    GRID = Grid("Alarms", {"first": "the first", "second": "the second"}, {"hit": "hits", "missed": "misses"})

    def test_a_cell_holds_the_metric_of_its_row_and_column(self):
        found = {"first_hit": proportion(3, 4), "second_missed": proportion(1, 4), "other": proportion(1, 1)}
        (table,) = grid_tables(replace(spec(), grids=(self.GRID,)), found)
        assert table.columns == ("", "hits (hit)", "misses (missed)")
        assert table.rows == (
            ("first: the first", proportion(3, 4), None),
            ("second: the second", None, proportion(1, 4)),
        )
        assert self.GRID.metrics == ("first_hit", "first_missed", "second_hit", "second_missed")

    def test_rows_and_grids_without_a_metric_are_left_out(self):
        made = replace(spec(), grids=(self.GRID,))
        assert grid_tables(made, {"other": proportion(1, 1)}) == ()
        (table,) = grid_tables(made, {"second_hit": proportion(1, 2)})
        assert [row[0] for row in table.rows] == ["second: the second"]
