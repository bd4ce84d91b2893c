"""Checks that read others run after them, here and elsewhere, and get what they name."""

from __future__ import annotations

import numpy as np
import pytest
from made_checks import (
    GOOD,
    HELD_OUT,
    LEARNER,
    RAN,
    READ,
    Counter,
    bench_for,
    boom,
    check_named,
    executed,
    journal_beside,
    made_check,
    mean_of_images,
    numbers,
    ones,
    planned,
)

from auditkit.check import Findings
from auditkit.engine import Hands, execute
from auditkit.progress import Silent
from auditkit.store import Store
from auditkit.units import judge_samples, learn_lesson


def numbered(model, samples, ctx):
    return Findings({**ones(model, samples, ctx).columns, "number": numbers(samples)})


def reader_named(name, *patterns, methods=(), **spec):
    """Return a check that adds up a column of the checks that it reads; what it is given is noted."""

    def run(self, model, samples, ctx):
        RAN.append((ctx.key, len(samples)))
        READ.append(dict(ctx.finished))
        given = sum((one.columns["number"] for one in ctx.finished.values()), np.zeros(len(samples)))
        return Findings({**ones(model, samples, ctx).columns, "number": given})

    return made_check(name, run, methods, reads=patterns, **spec)


NUMBERED = check_named("made.numbered", numbered)
READER = reader_named("made.a_reader", "made.n*")


class Elsewhere:
    """Does tasks as worker processes do: in any order, knowing nothing but the task."""

    def __init__(self, bench, store, progress=None):
        self.bench, self.store, self.progress = bench, store, progress or Silent()

    def do(self, tasks):
        failures = {}
        for task in sorted(tasks, key=lambda task: task.digest):
            if task.shard is None:
                failure = learn_lesson(self.bench, self.store, task)
            else:
                samples = self.bench.read(*self.bench.shards[task.shard]).samples
                failure = judge_samples(self.bench, self.store, task, samples, self.progress)
            if failure is not None:
                failures[task.planned.key] = failure
        return failures


WAYS = pytest.mark.parametrize("way", [None, Elsewhere], ids=["here", "elsewhere"])


class TestReading:
    @WAYS
    def test_a_reader_runs_after_what_it_reads_and_gets_its_columns(self, tmp_path, way):
        other = planned(NUMBERED, "made.numbered@other", amount=0.25)
        plan = [planned(READER), planned(NUMBERED), other, planned(GOOD)]
        _, result, table = executed(bench_for(), plan, tmp_path, way)
        keys = [key for key, _ in RAN]
        assert keys.index("made.a_reader") > keys.index("made.numbered")
        assert [sorted(finished) for finished in READ] == [["made.numbered", "made.numbered@other"]] * 3
        assert {finished["made.numbered@other"].check.amount for finished in READ} == {0.25}
        np.testing.assert_array_equal(table["made.a_reader/number"], 2 * np.arange(20))
        assert result.check("made.a_reader").status == "done"

    @WAYS
    def test_it_gets_what_its_patterns_name_and_nothing_else(self, tmp_path, way):
        readers = [reader_named("made.exact", "made.numbered"), reader_named("made.none", "noise.*")]
        others = planned(NUMBERED, "made.numbered@other"), planned(NUMBERED, "made.numbered"), planned(GOOD)
        executed(bench_for(shard=20), [*(planned(reader) for reader in readers), *others], tmp_path, way)
        assert sorted(sorted(finished) for finished in READ) == [[], ["made.numbered", "made.numbered@other"]]

    @WAYS
    def test_neither_other_readers_nor_learners_are_read(self, tmp_path, way):
        plan = [planned(kind) for kind in (READER, reader_named("made.all", "*"), LEARNER, NUMBERED)]
        executed(bench_for(shard=20), plan, tmp_path, way)
        assert [sorted(finished) for finished in READ] == [["made.numbered"], ["made.numbered"]]

    @WAYS
    def test_a_check_that_failed_is_absent_on_every_shard(self, tmp_path, way):
        """Also where it failed on the last shard only."""

        def late(model, samples, ctx):
            return boom(model, samples, ctx) if len(samples) == 4 else numbered(model, samples, ctx)

        plan = [planned(READER), planned(check_named("made.nasty", late)), planned(NUMBERED)]
        _, result, table = executed(bench_for(), plan, tmp_path, way)
        assert result.check("made.nasty").status == "failed"
        assert result.check("made.a_reader").status == "done"
        np.testing.assert_array_equal(table["made.a_reader/number"], np.arange(20))

    @WAYS
    def test_a_reader_with_nothing_to_read_runs_all_the_same(self, tmp_path, way):
        _, result, table = executed(bench_for(), [planned(READER)], tmp_path, way)
        assert result.check("made.a_reader").status == "done"
        assert not table["made.a_reader/number"].any()

    @WAYS
    def test_a_second_run_reads_nothing_anew(self, tmp_path, way):
        plan = [planned(READER), planned(NUMBERED)]
        _, first, _ = executed(bench_for(), plan, tmp_path, way)
        ran = len(RAN)
        _, second, _ = executed(bench_for(), plan, tmp_path, way)
        assert len(RAN) == ran == 6
        assert first == second

    @WAYS
    def test_findings_that_differ_are_read_anew(self, tmp_path, way):
        executed(bench_for(), [planned(READER), planned(NUMBERED)], tmp_path, way)
        RAN.clear()
        executed(bench_for(), [planned(READER), planned(NUMBERED, amount=0.25)], tmp_path, way)
        assert [key for key, _ in RAN].count("made.a_reader") == 3
        RAN.clear()
        executed(bench_for(), [planned(READER)], tmp_path, way)
        assert [key for key, _ in RAN] == ["made.a_reader"] * 3

    @WAYS
    def test_a_reader_that_learns_reads_the_rows_of_the_images_that_it_is_judged_on(self, tmp_path, way):
        lesson = {"learn": lambda self, *given: mean_of_images(*given)}
        reader = reader_named("made.both", "made.n*", methods=lesson, scope="dataset")
        _, result, table = executed(bench_for(), [planned(reader), planned(NUMBERED)], tmp_path, way)
        assert result.check("made.both").reason is None
        np.testing.assert_array_equal(table["made.both/number"][HELD_OUT], np.arange(20)[HELD_OUT])

    @WAYS
    def test_progress_reaches_its_total(self, tmp_path, way):
        plan = [planned(kind) for kind in (READER, NUMBERED, LEARNER, check_named("made.nasty", boom))]
        for _ in range(2):
            progress, bench, store = Counter(), bench_for(), Store(tmp_path)
            hands = Hands(way(bench, store, progress)) if way is not None else None
            execute(bench, plan, store, progress, journal_beside(tmp_path), hands)
            assert progress.done == dict.fromkeys(("made.a_reader", "made.numbered", "made.learner", "made.nasty"), 20)
