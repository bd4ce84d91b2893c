"""Checks that learn are judged on the images that they did not learn from."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from made_checks import (
    BRIGHTER,
    GOOD,
    HELD_OUT,
    JUDGED,
    LEARNED,
    LEARNER,
    NETWORK,
    RAN,
    SAMPLES,
    Counter,
    bench_for,
    boom,
    executed,
    journal_beside,
    learner_named,
    leave,
    made_check,
    nothing,
    overstay,
    planned,
)

from auditkit.config import settings_from
from auditkit.engine import execute
from auditkit.preparing import set_up
from auditkit.samples.memory import open_arrays
from auditkit.samples.stream import View
from auditkit.store import Store
from auditkit.workbench import Recipe


def with_another_training_image():
    """Return the images with a single one changed that is learned from, in the last shard."""
    images = SAMPLES.images.clone()
    images[16 + int((~HELD_OUT[16:]).nonzero()[0][0])] += 0.001
    return images


class TestLearning:
    def test_a_learner_is_judged_on_exactly_the_images_that_it_did_not_learn_from(self, tmp_path):
        execution, result, _ = executed(bench_for(), [planned(LEARNER)], tmp_path)
        ids = [name for shard in execution.shards for name in shard.ids]
        held_out = [name for name, held in zip(ids, HELD_OUT, strict=True) if held]
        ((key, learned),) = LEARNED
        assert key == "made.learner"
        assert held_out == JUDGED
        assert sorted(learned) == sorted(set(ids) - set(held_out))
        assert 5 < len(held_out) < 15
        assert result.check("made.learner").metrics["ones"].n == len(held_out)

    def test_all_learners_learn_from_the_same_images_and_others_see_all(self, tmp_path):
        plan = [planned(LEARNER), planned(GOOD), planned(learner_named("made.other"))]
        executed(bench_for(), plan, tmp_path)
        assert [key for key, _ in LEARNED] == ["made.learner", "made.other"]
        assert LEARNED[0][1] == LEARNED[1][1]
        assert sum(n for key, n in RAN if key == "made.good") == 20

    def test_what_was_learned_reaches_every_shard(self, tmp_path):
        _, _, table = executed(bench_for(), [planned(LEARNER)], tmp_path)
        wanted = SAMPLES.images[torch.from_numpy(~HELD_OUT)].double().mean().item()
        np.testing.assert_array_equal(table["made.learner/lesson"][HELD_OUT], wanted)

    def test_the_table_leaves_training_images_empty_and_says_which_were_judged(self, tmp_path):
        _, result, table = executed(bench_for(), [planned(LEARNER), planned(GOOD)], tmp_path)
        np.testing.assert_array_equal(table["made.learner/held_out"], HELD_OUT)
        np.testing.assert_array_equal(table["made.learner/one"], HELD_OUT)
        np.testing.assert_array_equal(table["made.learner/number"], np.where(HELD_OUT, np.arange(20), 0))
        np.testing.assert_array_equal(np.isnan(table["made.learner/lesson"]), ~HELD_OUT)
        np.testing.assert_array_equal(table["made.learner/forwards"], np.where(HELD_OUT, np.arange(20) + 1, 0))
        assert result.check("made.learner").queries == {"forward": (np.arange(20) + 1)[HELD_OUT].mean()}
        assert "made.good/held_out" not in table
        assert table["made.good/one"].all()

    def test_shards_change_nothing(self, tmp_path):
        tables = [
            executed(bench_for(shard=size), [planned(LEARNER)], tmp_path / f"{size}")[2] for size in (1, 3, 8, 20)
        ]
        assert all(learned == LEARNED[0] for learned in LEARNED)
        for table in tables[1:]:
            assert table.keys() == tables[0].keys()
            for name, column in table.items():
                equal_nan = column.dtype.kind == "f"
                assert np.array_equal(column, tables[0][name], equal_nan=equal_nan), name

    def test_a_second_run_learns_nothing_anew_and_finds_the_same(self, tmp_path):
        _, first, _ = executed(bench_for(), [planned(LEARNER)], tmp_path)
        ran, files = len(RAN), sorted(tmp_path.iterdir())
        _, second, _ = executed(bench_for(), [planned(LEARNER)], tmp_path)
        assert (len(LEARNED), len(RAN)) == (1, ran)
        assert sorted(tmp_path.iterdir()) == files
        assert first == second

    def test_a_lost_unit_is_judged_again_with_what_was_learned_before(self, tmp_path):
        execution, first, _ = executed(bench_for(), [planned(LEARNER)], tmp_path)
        (tmp_path / f"{execution.units['made.learner', 1]}.npz").unlink()
        RAN.clear()
        _, second, _ = executed(bench_for(), [planned(LEARNER)], tmp_path)
        assert len(LEARNED) == 1
        assert [("made.learner", int(HELD_OUT[8:16].sum()))] == RAN
        assert first.check("made.learner").metrics == second.check("made.learner").metrics

    @pytest.mark.parametrize(
        "change", [{"seed": 1}, {"images": BRIGHTER}, {"images": with_another_training_image()}, {"option": 0.25}]
    )
    def test_what_is_learned_from_something_else_is_learned_anew(self, tmp_path, change):
        option = {"amount": change["option"]} if "option" in change else {}
        settings = {name: value for name, value in change.items() if name != "option"}
        one, _, _ = executed(bench_for(), [planned(LEARNER)], tmp_path)
        two, _, _ = executed(bench_for(**settings), [planned(LEARNER, **option)], tmp_path)
        assert len(LEARNED) == 2
        assert not set(one.units.values()) & set(two.units.values())

    def test_a_damaged_lesson_is_learned_again(self, tmp_path):
        execution, wanted, _ = executed(bench_for(), [planned(LEARNER)], tmp_path)
        (tmp_path / f"{execution.lessons['made.learner']}.npz").write_bytes(b"")
        (tmp_path / f"{execution.units['made.learner', 0]}.npz").unlink()
        _, result, _ = executed(bench_for(), [planned(LEARNER)], tmp_path)
        assert len(LEARNED) == 2
        assert result.check("made.learner").metrics == wanted.check("made.learner").metrics

    def test_whatever_goes_wrong_in_learning_fails_that_check_and_no_other(self, tmp_path):
        faults = {
            "made.boom": (boom, "RuntimeError: boom"),
            "made.leave": (leave, "SystemExit: 0"),
            "made.overstay": (overstay, r"stopped at its time limit of 0\.2 s"),
            "made.nothing": (nothing, "NoneType"),
            "made.words": (lambda *_: {"word": "mean"}, "named arrays of numbers"),
            "made.numbered": (lambda *_: {7: np.zeros(1)}, "named arrays of numbers"),
            "made.objects": (lambda *_: {"object": np.array([{}])}, "named arrays of numbers"),
            "made.list": (lambda *_: [np.zeros(1)], "named arrays of numbers|'list' object has no attribute"),
        }
        plan = [planned(learner_named(name, lesson)) for name, (lesson, _) in faults.items()]
        without = made_check("made.without", LEARNER.run, scope="dataset")
        _, result, table = executed(
            bench_for(time_limit=0.2), [*plan, planned(without), planned(LEARNER), planned(GOOD)], tmp_path
        )
        for name, (_, words) in {**faults, "made.without": (None, "no attribute 'learn'")}.items():
            record = result.check(name)
            assert record.status == "failed", name
            assert re.search(words, record.reason), record.reason
            assert "\n" not in record.reason
        assert [result.check(name).status for name in ("made.learner", "made.good")] == ["done", "done"]
        assert {name.partition("/")[0] for name in table if "/" in name} == {"made.learner", "made.good"}

    def test_without_images_on_both_sides_the_check_fails_with_the_reason(self, tmp_path):
        reasons = []
        for rows in (np.flatnonzero(HELD_OUT)[:1], np.flatnonzero(~HELD_OUT)[:1]):
            data = open_arrays(SAMPLES.images[rows].numpy(), SAMPLES.labels[rows].numpy(), View(), ids=map(str, rows))
            bench = set_up(Recipe(NETWORK, data, settings_from({"precision": "float32"})))
            _, result, _ = executed(bench, [planned(LEARNER), planned(GOOD)], tmp_path)
            assert result.check("made.good").status == "done"
            assert result.check("made.learner").status == "failed"
            reasons.append(result.check("made.learner").reason)
        assert "none to learn from" in reasons[0]
        assert "none is left to judge it on" in reasons[1]

    def test_progress_reaches_its_total(self, tmp_path):
        plan = [planned(LEARNER), planned(GOOD), planned(learner_named("made.boom", boom))]
        for _ in range(2):
            progress = Counter()
            execute(bench_for(), plan, Store(tmp_path), progress, journal_beside(tmp_path))
            assert progress.total == 60
            assert progress.done == {"made.learner": 20, "made.good": 20, "made.boom": 20}
