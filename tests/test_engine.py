"""The engine: no unit is done twice, none under another's name, and a broken check spoils only itself."""

from __future__ import annotations

import re
import sys
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from auditkit import audit, workbench
from auditkit.artifacts import Artifact
from auditkit.assemble import assemble
from auditkit.check import OUTSIDE, Conclusion, Exhibit, Findings, Finished, Metric, Spec, Table, Tally
from auditkit.config import settings_from
from auditkit.engine import Hands, execute
from auditkit.errors import ExecutionError, ExitCode, UsageError
from auditkit.executors import worker_processes
from auditkit.gate import exit_code, judge
from auditkit.journal import UNFINISHED, Journal
from auditkit.plan import configure
from auditkit.progress import Silent
from auditkit.samples.memory import open_arrays
from auditkit.samples.stream import View
from auditkit.separation import auroc
from auditkit.split import is_held_out
from auditkit.store import Store
from auditkit.testing import LinearModel, toy_samples
from auditkit.units import judge_samples, learn_lesson
from auditkit.workbench import Recipe, set_up
from auditkit_plugins.fgsm import FGSM
from auditkit_plugins.mask_patch import MaskPatch
from auditkit_plugins.pgd import PGD

NETWORK = LinearModel(classes=3, seed=1).eval()
SAMPLES = toy_samples(20, seed=2, network=NETWORK)
RAN: list[tuple[str, int]] = []
LEARNED: list[tuple[str, tuple[str, ...]]] = []
JUDGED: list[str] = []
READ: list[dict[str, Finished]] = []


@pytest.fixture(autouse=True)
def _nothing_ran_yet():
    for noted in (RAN, LEARNED, JUDGED, READ):
        noted.clear()


def bench_for(network=NETWORK, images=SAMPLES.images, labels=SAMPLES.labels, **settings):
    data = images.numpy(), labels.numpy()
    return set_up(Recipe(network, data, settings_from({"shard": 8, "precision": "float32", **settings})))


def made_check(name, run, methods=(), **spec):
    described = Spec(name, "t", "w", (Metric("ones", "one", "t"),), **spec)
    made = type("Made", (), {"spec": described, "run": run, "amount": 0.5, **dict(methods)})
    made.__annotations__ = {"spec": ClassVar[Spec], "amount": float}
    return dataclass(frozen=True)(made)


def check_named(name, body):
    """Return a check whose `run` is `body(model, samples, ctx)`; every run is noted."""

    def run(self, model, samples, ctx):
        RAN.append((ctx.key, len(samples)))
        return body(model, samples, ctx)

    return made_check(name, run)


def ones(model, samples, ctx):
    return Findings({"one": np.ones(len(samples), dtype=bool)})


GOOD = check_named("made.good", ones)


def planned(kind, key=None, distribution="tests 1", **options):
    return configure(kind, options, key or kind.spec.id, distribution)


def journal_beside(folder):
    beside = folder.parent / f"{folder.name} journal"
    beside.mkdir(exist_ok=True)
    (beside / UNFINISHED).unlink(missing_ok=True)
    return Journal(beside, {})


def executed(bench, plan, folder, way=None):
    store = Store(folder)
    hands = Hands(way(bench, store)) if way is not None else None
    execution = execute(bench, plan, store, Silent(), journal_beside(folder), hands)
    result, table, *_ = assemble(bench, plan, [], execution, store, [], {}, None)
    return execution, result, table


def test_a_second_run_repeats_nothing_and_finds_the_same(tmp_path):
    bench, plan = bench_for(), [planned(GOOD), planned(FGSM)]
    _, first, table = executed(bench, plan, tmp_path)
    assert RAN == [("made.good", 8), ("made.good", 8), ("made.good", 4)]
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(before) == 6
    _, second, again = executed(bench_for(), plan, tmp_path)
    assert len(RAN) == 3
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert first == second
    assert table.keys() == again.keys()
    assert all(np.array_equal(table[name], again[name], equal_nan=table[name].dtype.kind == "f") for name in table)


@pytest.mark.parametrize("damage", ["cut short", "a bit flipped", "empty"])
def test_a_damaged_unit_is_done_again_and_no_other(tmp_path, damage):
    _, wanted, _ = executed(bench_for(), [planned(GOOD)], tmp_path)
    RAN.clear()
    path = sorted(tmp_path.iterdir())[0]
    content = bytearray(path.read_bytes())
    if damage == "a bit flipped":
        content[len(content) // 3] ^= 16
    path.write_bytes(bytes(content[: {"cut short": -9, "empty": 0}.get(damage, len(content))]))
    _, result, _ = executed(bench_for(), [planned(GOOD)], tmp_path)
    assert len(RAN) == 1
    assert result.check("made.good").metrics == wanted.check("made.good").metrics


def test_a_lost_unit_is_done_again_and_no_other(tmp_path):
    plan = [planned(GOOD)]
    execution, _, _ = executed(bench_for(), plan, tmp_path)
    (tmp_path / f"{execution.units['made.good', 2]}.npz").unlink()
    executed(bench_for(), plan, tmp_path)
    assert RAN[3:] == [("made.good", 4)]


BRIGHTER = SAMPLES.images + 0.001
OTHER_LABELS = (SAMPLES.labels + 1) % 3
SCALED = LinearModel(classes=3, seed=1).eval()
SCALED.temperature = 2.0  # type: ignore[assignment]
BUFFERED = LinearModel(classes=3, seed=1).eval()
BUFFERED.register_buffer("mean", torch.zeros(1), persistent=False)


def twice():
    class Rewritten(LinearModel):
        def forward(self, images):
            return super().forward(images) * 2

    return Rewritten(classes=3, seed=1).eval()


def thrice():
    class Rewritten(LinearModel):
        def forward(self, images):
            return super().forward(images) * 3

    return Rewritten(classes=3, seed=1).eval()


VERSION_2 = made_check("made.good", GOOD.run, version=2)

CHANGES = {
    "images": (bench_for(images=BRIGHTER), planned(GOOD)),
    "labels": (bench_for(labels=OTHER_LABELS), planned(GOOD)),
    "weights": (bench_for(LinearModel(classes=3, seed=9).eval()), planned(GOOD)),
    "attribute of the model": (bench_for(SCALED), planned(GOOD)),
    "unsaved buffer": (bench_for(BUFFERED), planned(GOOD)),
    "preprocessing": (bench_for(mean="0.5"), planned(GOOD)),
    "seed": (bench_for(seed=1), planned(GOOD)),
    "option": (bench_for(), planned(GOOD, amount=0.25)),
    "key": (bench_for(), planned(GOOD, "made.good@other")),
    "version of the check": (bench_for(), planned(VERSION_2)),
    "package of the check": (bench_for(), planned(GOOD, distribution="tests 2")),
    "class names": (bench_for(class_names=("a", "b", "c")), planned(GOOD)),
}


@pytest.mark.parametrize("what", list(CHANGES))
def test_a_unit_is_not_taken_for_one_that_differs_in(tmp_path, what):
    units = {}
    for name in ("", what):
        bench, plan = CHANGES[name] if name else (bench_for(), planned(GOOD))
        execution, _, _ = executed(bench, [plan], tmp_path)
        units[name] = set(execution.units.values())
    assert not units[""] & units[what]
    assert len(RAN) == 6


def test_another_mask_in_a_file_of_the_same_name_is_another_unit(tmp_path):
    """Else a sticker that was redrawn would be reported with the old one's numbers."""
    file, units = tmp_path / "mask.npy", []
    for row in (0, 1, 0):
        mask = np.zeros(SAMPLES.images.shape[2:], dtype=bool)
        mask[row, :2] = True
        np.save(file, mask)
        plan = configure(MaskPatch, {"mask": str(file), "steps": 1, "rounds": 1}, "patch.mask", "tests 1")
        units.append(set(executed(bench_for(), [plan], tmp_path / "units")[0].units.values()))
    assert not units[0] & units[1]
    assert units[0] == units[2]


def test_a_network_whose_code_was_edited_is_another_network(tmp_path):
    first, second = bench_for(twice()), bench_for(thrice())
    assert first.model.info.name == second.model.info.name
    assert first.model.info.digest != second.model.info.digest
    assert first.model.info.digest == bench_for(twice()).model.info.digest


def test_budgets_that_differ_in_the_eighth_digit_are_two_units(tmp_path):
    bench = bench_for()
    one, _, _ = executed(bench, [planned(FGSM, eps=0.01234567)], tmp_path)
    two, _, _ = executed(bench, [planned(FGSM, eps=0.01234568)], tmp_path)
    assert not set(one.units.values()) & set(two.units.values())


def test_a_batch_size_changes_no_unit(tmp_path):
    one, result, _ = executed(bench_for(batch=3), [planned(PGD, steps=3)], tmp_path / "a")
    two, again, _ = executed(bench_for(batch=64), [planned(PGD, steps=3)], tmp_path / "b")
    assert one.units == two.units
    wanted, got = (found.model_dump(exclude={"checks": {0: {"seconds"}}}) for found in (result, again))
    assert wanted == got


def boom(model, samples, ctx):
    raise RuntimeError("boom\nwith a second line")


def leave(model, samples, ctx):
    sys.exit(0)


def overstay(model, samples, ctx):
    while True:
        time.sleep(0.01)
        ctx.check_time()


def with_nan(model, samples, ctx):
    return Findings({"one": np.full(len(samples), np.nan)})


def with_wild_score(model, samples, ctx):
    return Findings(ones(model, samples, ctx).columns, (Exhibit(samples.ids[0], "", float("inf"), ()),))


def with_wild_passes(model, samples, ctx):
    return Findings(ones(model, samples, ctx).columns, forwards=np.full(len(samples), np.nan))


def too_short(model, samples, ctx):
    return Findings({"one": np.ones(3, dtype=bool)})


def nothing(model, samples, ctx):
    return None


def moody(model, samples, ctx):
    extra = {"extra": np.zeros(len(samples))} if len(samples) == 4 else {}
    return Findings({**ones(model, samples, ctx).columns, **extra})


FAULTS = {
    "made.boom": (boom, "RuntimeError: boom"),
    "made.leave": (leave, "SystemExit: 0"),
    "made.overstay": (overstay, r"stopped at its time limit of 0\.2 s a shard"),
    "made.nan": (with_nan, "column one of float64; a share needs bool"),
    "made.score": (with_wild_score, "with score inf"),
    "made.passes": (with_wild_passes, "forwards that are not"),
    "made.short": (too_short, r"column one of shape \(3,\); wanted \(8,\)"),
    "made.nothing": (nothing, "returned NoneType; wanted Findings"),
    "made.moody": (moody, "the shards have different columns"),
}


def test_whatever_a_check_does_wrong_fails_that_check_and_no_other(tmp_path):
    plan = [planned(check_named(name, body)) for name, (body, _) in FAULTS.items()] + [planned(GOOD)]
    _, result, table = executed(bench_for(time_limit=0.2), plan, tmp_path)
    for name, (_, words) in FAULTS.items():
        record = result.check(name)
        assert record.status == "failed", name
        assert re.search(words, record.reason), record.reason
        assert "\n" not in record.reason
        assert not record.metrics
    good = result.check("made.good")
    assert (good.status, good.reason, good.metrics["ones"].value) == ("done", None, 1.0)
    assert [name for name in table if "/" in name] == ["made.good/one"]
    assert result.to_json()


def test_a_check_that_failed_on_one_shard_is_not_tried_on_the_next(tmp_path):
    execution, _, _ = executed(bench_for(), [planned(check_named("made.boom", boom))], tmp_path)
    assert RAN == [("made.boom", 8)]
    assert list(execution.failures) == ["made.boom"]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_is_no_fault_of_the_check(tmp_path):
    def interrupted(model, samples, ctx):
        if len(RAN) == 2:
            raise KeyboardInterrupt
        return ones(model, samples, ctx)

    plan = [planned(check_named("made.slow", interrupted))]
    with pytest.raises(KeyboardInterrupt):
        executed(bench_for(), plan, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    executed(bench_for(), plan, tmp_path)
    assert len(RAN) == 2 + 2


def test_memory_that_runs_out_halves_the_batch_also_for_shared_values(tmp_path):
    from auditkit.artifacts import CLEAN_LOGITS

    seen = []

    def hungry(model, samples, ctx):
        seen.append((ctx.batch, model.batch, model.exact.batch, ctx.search.batch, ctx.shelf.model.batch))
        if ctx.batch > 16:
            raise torch.OutOfMemoryError("out of memory")
        assert torch.equal(ctx.shelf.get(CLEAN_LOGITS), model.logits(samples.images))
        return ones(model, samples, ctx)

    _, result, _ = executed(bench_for(batch=64, shard=20), [planned(check_named("made.hungry", hungry))], tmp_path)
    assert seen == [(size,) * 5 for size in (64, 32, 16)]
    assert result.check("made.hungry").status == "done"


def test_memory_that_never_suffices_is_a_failure_and_no_endless_loop(tmp_path):
    def starving(model, samples, ctx):
        raise torch.OutOfMemoryError("out of memory")

    _, result, _ = executed(bench_for(batch=64), [planned(check_named("made.starving", starving))], tmp_path)
    assert "OutOfMemoryError" in result.check("made.starving").reason
    assert len(RAN) == 4


class Counter(Silent):
    def __init__(self):
        self.total, self.done = 0, {}

    def start(self, total):
        self.total = total

    def advance(self, pairs, key):
        self.done[key] = self.done.get(key, 0) + pairs


def test_progress_reaches_its_total_whether_computed_found_or_failed(tmp_path):
    plan = [planned(GOOD), planned(PGD, steps=2), planned(check_named("made.boom", boom))]
    for _ in range(2):
        progress = Counter()
        execute(bench_for(), plan, Store(tmp_path), progress, journal_beside(tmp_path))
        assert progress.total == 60
        assert progress.done == {"made.good": 20, "noise.pgd": 20, "made.boom": 20}


def test_checks_do_not_see_each_others_findings_or_numbers(tmp_path):
    """One check alone, or the same beside others: the same columns."""
    bench = bench_for()
    _, _, alone = executed(bench, [planned(PGD, steps=3)], tmp_path / "a")
    _, _, beside = executed(
        bench, [planned(PGD, "noise.pgd@x", steps=3), planned(GOOD), planned(PGD, steps=3)], tmp_path / "b"
    )
    names = [name for name in alone if name.startswith("noise.pgd/")]
    assert len(names) > 5
    for name in names:
        np.testing.assert_array_equal(alone[name], beside[name])


def mean_of_images(model, samples, ctx):
    return {"mean": np.array(samples.images.double().mean().item()), "n": np.array(len(samples))}


def learner_named(name, lesson=mean_of_images, body=None):
    """Return a check that learns `lesson(model, samples, ctx)`; what it sees is noted."""

    def learn(self, model, samples, ctx):
        LEARNED.append((ctx.key, samples.ids))
        return lesson(model, samples, ctx)

    def run(self, model, samples, ctx):
        RAN.append((ctx.key, len(samples)))
        JUDGED.extend(samples.ids)
        columns = {
            "one": np.ones(len(samples), dtype=bool),
            "number": numbers(samples),
            "lesson": np.full(len(samples), float(ctx.lesson["mean"])),
        }
        return (body or (lambda columns: Findings(columns, forwards=numbers(samples) + 1)))(columns)

    return made_check(name, run, {"learn": learn}, scope="dataset")


def numbers(samples):
    return np.array([int(name) for name in samples.ids])


LEARNER = learner_named("made.learner")
HELD_OUT = is_held_out([str(row) for row in range(20)], 0, 20)


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


UNLIKE = SAMPLES.images[:13].flip(2) ** 2
UNLIKE_IDS = [f"u{row}" for row in range(13)]
NOTED: list[tuple[str, tuple[str, ...], int]] = []


def outside_named(name, learn=None, **spec):
    """Return a check that learns the brightness of each image of the second data set; what it is shown is noted."""

    def brightness(samples):
        return samples.images.double().mean((1, 2, 3)).numpy()

    def learned(self, model, samples, ctx):
        NOTED.append((ctx.key, samples.ids, len(ctx.calibration.samples)))
        LEARNED.append((ctx.key, samples.ids))
        if learn is not None:
            return learn(model, samples, ctx)
        new = {"brightness": brightness(samples), "ids": np.array(samples.ids)}
        return {part: np.concatenate([ctx.lesson[part], new[part]]) if ctx.lesson else new[part] for part in new}

    def run(self, model, samples, ctx):
        RAN.append((ctx.key, len(samples)))
        columns = {**ones(model, samples, ctx).columns, "bright": brightness(samples)}
        first = ctx.lesson["ids"][0]
        exhibit = Exhibit(f"{OUTSIDE}{first}", "the first", 1.0, ())
        shown = (exhibit,) if len(ctx.calibration.samples) else ()
        return Findings(columns, shown, others={"ood_bright": ctx.lesson["brightness"]})

    metric = Metric("auroc", "ood_bright", "t", "auroc", against="bright")
    made = made_check(name, run, {"learn": learned}, scope="outside", **spec)
    made.spec = replace(made.spec, metrics=(*made.spec.metrics, metric))
    return made


def outside_bench(images=UNLIKE, ids=UNLIKE_IDS, **settings):
    ood = open_arrays(images.numpy(), np.zeros(len(images), dtype=np.int64), View(), ids=ids)
    return bench_for(ood=ood, **settings)


class TestASecondDataSet:
    @pytest.fixture(autouse=True)
    def _nothing_noted_yet(self):
        NOTED.clear()

    def test_it_is_shown_shard_by_shard_and_what_all_shards_teach_reaches_every_sample(self, tmp_path):
        _, result, table = executed(outside_bench(), [planned(outside_named("made.outside"))], tmp_path)
        assert [ids for _, ids, _ in NOTED] == [tuple(UNLIKE_IDS[:8]), tuple(UNLIKE_IDS[8:])]
        assert [n for _, n in RAN] == [8, 8, 4], "all samples are judged"
        check = result.check("made.outside")
        wanted = auroc(UNLIKE.double().mean((1, 2, 3)).numpy(), SAMPLES.images.double().mean((1, 2, 3)).numpy())
        assert check.metrics["auroc"] == wanted
        assert check.metrics["ones"].n == 20
        assert [exhibit.sample for exhibit in check.exhibits] == ["ood: u0"]
        assert "made.outside/held_out" not in table
        assert "made.outside/ood_bright" not in table

    def test_shards_change_nothing(self, tmp_path):
        plan = [planned(outside_named("made.outside"))]
        found = [executed(outside_bench(shard=size), plan, tmp_path / f"{size}") for size in (1, 8, 20)]
        wanted = found[0][1].check("made.outside")
        for _, result, table in found[1:]:
            check = result.check("made.outside")
            assert (check.metrics, check.exhibits) == (wanted.metrics, wanted.exhibits)
            assert result.samples == found[0][1].samples
            for name, column in table.items():
                np.testing.assert_array_equal(column, found[0][2][name])

    def test_without_one_the_check_is_skipped_and_says_what_it_needs(self, tmp_path):
        _, result, _ = executed(bench_for(), [planned(outside_named("made.outside")), planned(GOOD)], tmp_path)
        check = result.check("made.outside")
        assert (check.status, check.metrics) == ("skipped", {})
        assert "--ood" in check.reason
        assert result.samples.outside is None
        assert exit_code(judge(result, [])) == ExitCode.PASS
        assert NOTED == []

    def test_a_second_run_learns_nothing_anew_and_finds_the_same(self, tmp_path):
        plan = [planned(outside_named("made.outside"))]
        _, first, _ = executed(outside_bench(), plan, tmp_path)
        ran, files = len(RAN), sorted(tmp_path.iterdir())
        _, second, _ = executed(outside_bench(), plan, tmp_path)
        assert (len(NOTED), len(RAN)) == (2, ran)
        assert sorted(tmp_path.iterdir()) == files
        assert first == second

    @pytest.mark.parametrize(
        "change",
        [
            {"images": UNLIKE + 0.0001},
            {"images": UNLIKE[:12], "ids": UNLIKE_IDS[:12]},
            {"ids": [*UNLIKE_IDS[:12], "other"]},
            {"seed": 1},
            {"own": BRIGHTER},
        ],
        ids=["another image", "one image less", "another name", "another seed", "other own images to calibrate with"],
    )
    def test_another_second_data_set_is_another_lesson_and_other_units(self, tmp_path, change):
        check = planned(outside_named("made.outside"))
        one, _, _ = executed(outside_bench(), [check], tmp_path)
        settings = {name: value for name, value in change.items() if name != "own"}
        bench = outside_bench(**settings)
        if "own" in change:
            ood = open_arrays(UNLIKE.numpy(), np.zeros(13, dtype=np.int64), View(), ids=UNLIKE_IDS)
            bench = bench_for(images=change["own"], ood=ood)
        two, _, _ = executed(bench, [check], tmp_path)
        assert not set(one.units.values()) & set(two.units.values())
        assert set(one.lessons.values()) != set(two.lessons.values())

    def test_its_labels_do_not_matter(self, tmp_path):
        data = UNLIKE.numpy(), np.arange(13)
        units = [
            set(executed(bench_for(ood=ood), [planned(outside_named("made.outside"))], tmp_path)[0].units.values())
            for ood in (data, UNLIKE.numpy())
        ]
        assert units[0] == units[1]

    def test_a_check_of_another_scope_does_not_care_which_it_is(self, tmp_path):
        plan = [planned(GOOD), planned(LEARNER)]
        with_one, without = (executed(bench, plan, tmp_path)[0] for bench in (outside_bench(), bench_for()))
        assert with_one.units == without.units
        assert with_one.outside is None

    def test_whatever_goes_wrong_in_a_later_shard_fails_that_check_and_no_other(self, tmp_path):
        def late(model, samples, ctx):
            if ctx.lesson:
                raise RuntimeError("boom")
            return {"ids": np.array(samples.ids)}

        plan = [planned(outside_named("made.late", late)), planned(outside_named("made.outside")), planned(GOOD)]
        execution, result, _ = executed(outside_bench(), plan, tmp_path)
        assert result.check("made.late").reason == "RuntimeError: boom"
        assert [result.check(name).status for name in ("made.outside", "made.good")] == ["done", "done"]
        assert set(execution.lessons) == {"made.outside"}

    def test_images_that_cannot_be_read_are_left_out_and_counted(self, tmp_path):
        spoilt = [UNLIKE.numpy()[row] for row in range(13)]
        spoilt[3] = np.full_like(spoilt[3], np.nan)
        with pytest.raises(ExecutionError, match=r"3 .*NaN"):
            executed(bench_for(ood=spoilt), [planned(outside_named("made.outside"))], tmp_path)
        bench = bench_for(ood=spoilt, skip_bad=True)
        _, result, _ = executed(bench, [planned(outside_named("made.outside"))], tmp_path)
        assert re.search(r"13 images, of which 12 can be read; fingerprint [0-9a-f]{64}$", result.samples.outside)
        assert result.check("made.outside").metrics["auroc"].n == 32

    def test_worker_processes_cannot_be_given_images_in_memory(self, tmp_path):
        torch.jit.script(NETWORK).save(tmp_path / "model.pt")
        np.savez(tmp_path / "data.npz", x=SAMPLES.images.numpy(), y=SAMPLES.labels.numpy())
        recipe = Recipe(tmp_path / "model.pt", tmp_path / "data.npz", settings_from({"ood": UNLIKE.numpy()}))
        hired = worker_processes(set_up(recipe), Store(tmp_path / "units"), Silent(), 2)
        with pytest.raises(UsageError, match="worker processes need"), hired:
            pass

    def test_where_no_check_looks_at_it_that_is_told(self, tmp_path):
        _, result, _ = executed(outside_bench(), [planned(GOOD)], tmp_path)
        assert result.samples.outside.endswith(": 13 images, at which no check looked")

    def test_progress_reaches_its_total(self, tmp_path):
        plan = [planned(outside_named("made.outside")), planned(outside_named("made.boom", boom)), planned(GOOD)]
        for _ in range(2):
            progress = Counter()
            execute(outside_bench(), plan, Store(tmp_path), progress, journal_beside(tmp_path))
            assert progress.total == 60
            assert progress.done == {"made.outside": 20, "made.boom": 20, "made.good": 20}

    def test_the_calibration_images_are_spread_evenly_and_their_values_computed_once(self, tmp_path, monkeypatch):
        monkeypatch.setattr(workbench, "_CALIBRATION_IMAGES", 5)
        seen, computed = [], []
        artifact = Artifact("made.up", lambda model, samples: computed.append(samples.ids) or samples.labels)

        def learn(model, samples, ctx):
            seen.append(ctx.calibration.samples.ids)
            ctx.calibration.get(artifact)
            return {"ids": np.array(samples.ids), "brightness": np.zeros(1)}

        executed(outside_bench(), [planned(outside_named("made.outside", learn))], tmp_path)
        assert seen == [("0", "4", "8", "12", "16")] * 2
        assert computed == seen[:1]


class TestCalibrating:
    def calibrated(self, name="made.calibrated", lesson=mean_of_images):
        made = learner_named(name, lesson)
        made.spec = replace(made.spec, scope="calibrated")
        return made

    def test_it_learns_from_a_few_images_and_is_judged_on_all(self, tmp_path, monkeypatch):
        monkeypatch.setattr(workbench, "_CALIBRATION_IMAGES", 4)
        _, result, table = executed(bench_for(), [planned(self.calibrated())], tmp_path)
        ((key, learned),) = LEARNED
        assert (key, learned) == ("made.calibrated", ("0", "5", "10", "15"))
        assert [str(row) for row in range(20)] == JUDGED
        assert result.check("made.calibrated").metrics["ones"].n == 20
        assert "made.calibrated/held_out" not in table
        wanted = SAMPLES.images[[0, 5, 10, 15]].double().mean().item()
        np.testing.assert_array_equal(table["made.calibrated/lesson"], wanted)

    def test_of_fewer_images_than_that_it_learns_from_each_once(self, tmp_path):
        executed(bench_for(), [planned(self.calibrated())], tmp_path)
        assert [("made.calibrated", tuple(str(row) for row in range(20)))] == LEARNED

    def test_shards_change_nothing_and_a_second_run_learns_nothing_anew(self, tmp_path):
        tables = [
            executed(bench_for(shard=size), [planned(self.calibrated())], tmp_path / f"{size}")[2] for size in (3, 20)
        ]
        for name, column in tables[0].items():
            np.testing.assert_array_equal(column, tables[1][name])
        learned = len(LEARNED)
        executed(bench_for(shard=3), [planned(self.calibrated())], tmp_path / "3")
        assert len(LEARNED) == learned

    def test_another_image_among_them_is_another_lesson(self, tmp_path):
        units = [
            set(executed(bench_for(images=images), [planned(self.calibrated())], tmp_path)[0].lessons.values())
            for images in (SAMPLES.images, BRIGHTER)
        ]
        assert units[0] != units[1]

    def test_where_none_of_them_can_be_read_the_check_fails_with_the_reason(self, tmp_path, monkeypatch):
        monkeypatch.setattr(workbench, "_CALIBRATION_IMAGES", 1)
        images = [SAMPLES.images[row].numpy() for row in range(20)]
        images[0] = np.full_like(images[0], np.nan)
        pairs = list(zip(images, SAMPLES.labels.tolist(), strict=True))
        bench = set_up(Recipe(NETWORK, pairs, settings_from({"precision": "float32", "skip_bad": True})))
        _, result, _ = executed(bench, [planned(self.calibrated()), planned(GOOD)], tmp_path)
        assert result.check("made.calibrated").reason == "none of the images to calibrate with could be read"
        assert result.check("made.good").status == "done"


def tallied_named(name, conclude):
    """Return a check that counts its samples and keeps their largest number, shard by shard."""

    def run(self, model, samples, ctx):
        tallies = {"n": Tally(np.array([len(samples)])), "last": Tally(numbers(samples).max(keepdims=True), "largest")}
        return Findings(ones(model, samples, ctx).columns, tallies=tallies)

    return made_check(name, run, {"conclude": lambda self, tallies: conclude(tallies)})


class TestTallies:
    @pytest.mark.parametrize("shard", [1, 8, 20])
    def test_the_check_concludes_once_from_what_all_shards_counted(self, tmp_path, shard):
        def conclude(tallies):
            row = tuple(int(tallies[name][0]) for name in ("n", "last"))
            return Conclusion((Table("Counted", ("images", "last"), (row,)),))

        _, result, _ = executed(bench_for(shard=shard), [planned(tallied_named("made.tally", conclude))], tmp_path)
        (table,) = result.check("made.tally").tables
        assert (table.columns, table.rows) == (("images", "last"), ((20, 19),))

    def test_a_conclusion_that_fails_fails_the_check_in_one_line_and_no_other(self, tmp_path):
        plan = [planned(tallied_named("made.boom", lambda tallies: boom(*[None] * 3))), planned(GOOD)]
        _, result, _ = executed(bench_for(), plan, tmp_path)
        record = result.check("made.boom")
        assert (record.status, record.reason) == ("failed", "RuntimeError while concluding: boom")
        assert result.check("made.good").status == "done"

    def test_tallies_that_nobody_concludes_from_are_a_failure_in_words(self, tmp_path):
        made = tallied_named("made.tally", None)
        del made.conclude
        _, result, _ = executed(bench_for(), [planned(made)], tmp_path)
        assert "no attribute 'conclude'" in result.check("made.tally").reason


def test_worker_processes_learn_and_read_the_same(tmp_path):
    """Spawned processes import torch for seconds each, so this is one test."""
    torch.jit.script(NETWORK).save(tmp_path / "model.pt")
    np.savez(tmp_path / "data.npz", x=SAMPLES.images.numpy(), y=SAMPLES.labels.numpy())
    tables = []
    for workers in (0, 2):
        options = {"noise.pgd": {"steps": 3}, "noise.universal": {"steps": 5, "mini_batch": 4}}
        audited = audit(
            tmp_path / "model.pt",
            tmp_path / "data.npz",
            checks=("sanity.attacks", "noise.universal", "noise.pgd"),
            options=options,
            workers=workers,
            shard=8,
            precision="float32",
        )
        assert [check.status for check in audited.result.checks] == ["done"] * 3
        tables.append(audited.table)
    assert tables[0].keys() == tables[1].keys()
    assert tables[0]["noise.universal/held_out"].any()
    for name, column in tables[0].items():
        assert np.array_equal(column, tables[1][name], equal_nan=column.dtype.kind == "f"), name
