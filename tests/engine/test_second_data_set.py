"""Checks that set the samples beside a second data set."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_checks import (
    BRIGHTER,
    GOOD,
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
    made_check,
    ones,
    planned,
)

from auditkit import workbench
from auditkit.artifacts import Artifact
from auditkit.check import OUTSIDE, Exhibit, Findings, Metric
from auditkit.config import settings_from
from auditkit.engine import execute
from auditkit.errors import ExecutionError, ExitCode, UsageError
from auditkit.executors.choose import worker_processes
from auditkit.gate import exit_code, judge
from auditkit.preparing import set_up
from auditkit.progress import Silent
from auditkit.samples.memory import open_arrays
from auditkit.samples.stream import View
from auditkit.separation import auroc
from auditkit.store import Store
from auditkit.workbench import Recipe

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
