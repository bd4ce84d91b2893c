"""No unit is done twice, none under another's name, and a broken check spoils only itself."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from made_checks import (
    BRIGHTER,
    GOOD,
    RAN,
    SAMPLES,
    Counter,
    bench_for,
    boom,
    check_named,
    executed,
    journal_beside,
    leave,
    made_check,
    nothing,
    ones,
    overstay,
    planned,
)

from auditkit.check import Exhibit, Findings
from auditkit.engine import execute
from auditkit.plan import configure
from auditkit.store import Store
from auditkit.testing import LinearModel
from auditkit_plugins.fgsm import FGSM
from auditkit_plugins.mask_patch import MaskPatch
from auditkit_plugins.pgd import PGD


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


def with_nan(model, samples, ctx):
    return Findings({"one": np.full(len(samples), np.nan)})


def with_wild_score(model, samples, ctx):
    return Findings(ones(model, samples, ctx).columns, (Exhibit(samples.ids[0], "", float("inf"), ()),))


def with_wild_passes(model, samples, ctx):
    return Findings(ones(model, samples, ctx).columns, forwards=np.full(len(samples), np.nan))


def too_short(model, samples, ctx):
    return Findings({"one": np.ones(3, dtype=bool)})


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
