"""Worker processes: whatever a check does to its process, all else is done, and the result says what happened."""

from __future__ import annotations

import json
import os

import faulty_checks
import numpy as np
import pytest
import torch

from auditkit.assemble import assemble
from auditkit.config import settings_from
from auditkit.engine import Hands, execute
from auditkit.errors import ExecutionError, UsageError
from auditkit.executors import dispatch, processes
from auditkit.executors.choose import apart, worker_processes
from auditkit.executors.zygote import zygote_for
from auditkit.journal import UNFINISHED, Journal
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.progress import Silent
from auditkit.store import Store
from auditkit.testing import LinearModel, toy_samples
from auditkit.workbench import Recipe

FAULTS = {
    faulty_checks.Raises: "RuntimeError: boom",
    faulty_checks.NaN: "faulty.nan returned column one of float64; a share needs bool",
    faulty_checks.Short: "faulty.short returned column one of shape (3,); wanted (8,), a value a sample",
    faulty_checks.Exits: "its process ended by itself (os._exit or the like, exit code 0), twice",
    faulty_checks.Crashes: "its process died (SIGSEGV: a crash in native code), twice",
    faulty_checks.CrashesInLearning: "its process died (SIGSEGV: a crash in native code), twice",
    faulty_checks.HangsUp: "its process closed its connection to the audit, twice",
    faulty_checks.Leaks: "it took more than 1 GB of memory, twice",
    faulty_checks.LosesTheDevice: "cpu failed (AcceleratorError: CUDA error: device-side assert triggered), twice",
    faulty_checks.Hangs: "stopped: it did not end within its time limit of 4 s a shard",
}


@pytest.fixture
def bench(tmp_path):
    return bench_in(tmp_path)


def bench_in(folder, **settings):
    network = LinearModel(classes=3, seed=1).eval()
    samples = toy_samples(20, seed=2, network=network)
    torch.jit.script(network).save(folder / "model.pt")
    np.savez(folder / "data.npz", x=samples.images.numpy(), y=samples.labels.numpy())
    chosen = {"shard": 8, "precision": "float32", **settings}
    return set_up(Recipe(folder / "model.pt", folder / "data.npz", settings_from(chosen)))


def plan_of(*kinds):
    return [configure(kind, {}, kind.spec.id, "tests 1") for kind in kinds]


def test_each_fault_fails_its_check_with_what_happened_and_everything_else_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatch, "_GRACE_SECONDS", 20.0)
    monkeypatch.setattr(processes, "_SECONDS_TO_END", 0.5)
    bench = bench_in(tmp_path, time_limit=4, workers=2, memory_limit=1.0)
    plan, store = plan_of(*FAULTS, faulty_checks.Good), Store(tmp_path / "units")
    with (
        zygote_for(bench.recipe.settings) as zygote,
        worker_processes(bench, store, Silent(), 2, zygote) as executor,
    ):
        execution = execute(bench, plan, store, Silent(), Journal(tmp_path, {}), Hands(executor))
    result, *_ = assemble(bench, plan, [], execution, store, [], {}, None)
    assert {check.id: check.reason for check in result.checks} == {
        **{kind.spec.id: reason for kind, reason in FAULTS.items()},
        "faulty.good": None,
    }
    assert result.check("faulty.good").metrics["ones"].n == 20


@pytest.mark.parametrize("workers", [0, 1], ids=["spawned", "forked"])
def test_no_worker_imports_what_lies_in_the_current_folder(tmp_path, monkeypatch, bench, workers):
    """Who audits a stranger's model may stand in the folder that the stranger filled."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in ("signal", "torch", "multiprocessing"):
        (folder / f"{name}.py").write_text(f"open({str(folder / 'ran')!r}, 'a').write({name!r})\n")
    monkeypatch.chdir(folder)
    plan, store = plan_of(faulty_checks.Good), Store(tmp_path / "units")
    with (
        zygote_for(settings_from({"workers": workers})) as zygote,
        worker_processes(bench, store, Silent(), 1, zygote) as executor,
    ):
        execution = execute(bench, plan, store, Silent(), Journal(tmp_path, {}), Hands(executor))
    assert execution.failures == {}
    assert not (folder / "ran").exists()
    assert os.environ.get("PYTHONSAFEPATH") is None


def run_here(folder):
    """Run an audit in this process, as `auditkit run` does without workers."""
    bench = bench_in(folder)
    plan, store = plan_of(faulty_checks.Exits, faulty_checks.Good), Store(folder / "units")
    journal = Journal(folder, {})
    with apart(bench, store, Silent()) as alone:
        execution = execute(bench, plan, store, Silent(), journal, Hands(apart=alone))
    result, *_ = assemble(bench, plan, [], execution, store, [], {}, None)
    journal.close()
    return result


def test_a_check_that_ends_the_whole_audit_is_done_in_a_process_of_its_own_the_next_time(tmp_path):
    child = os.fork()
    if not child:
        run_here(tmp_path)
        os._exit(77)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "it ended itself, and the audit with it"
    left = [json.loads(line) for line in (tmp_path / UNFINISHED).read_text().splitlines() if line]
    assert "begun" in left[-1]
    result = run_here(tmp_path)
    assert result.check("faulty.exits").reason.startswith("its process ended by itself (os._exit or the like")
    assert result.check("faulty.good").status == "done"
    assert not (tmp_path / UNFINISHED).exists()


def test_options_that_cannot_be_sent_keep_an_audit_here_and_refuse_workers_in_one_line(tmp_path):
    bench = bench_in(tmp_path, options={"faulty.good": {"way": lambda: None}})
    with apart(bench, Store(tmp_path), Silent()) as alone:
        assert alone is None
    hired = worker_processes(bench, Store(tmp_path), Silent(), 1)
    with pytest.raises(UsageError, match="worker processes need a model and data given by path"), hired:
        pass


def test_an_accelerator_that_fails_here_ends_the_audit_in_one_line_and_what_is_done_is_kept(tmp_path, bench):
    plan, store = plan_of(faulty_checks.Good, faulty_checks.LosesTheDevice), Store(tmp_path / "units")
    with pytest.raises(ExecutionError, match=r"^cpu failed \(AcceleratorError: CUDA error: [a-z -]*\)$"):
        execute(bench, plan, store, Silent(), Journal(tmp_path, {}))
    assert len(list((tmp_path / "units").iterdir())) == 1


def test_a_worker_that_sees_other_images_stops_the_audit_and_says_what_differs(tmp_path, bench):
    class Changing(Journal):
        """Changes the images as soon as this process has read them."""

        def see(self, ids, digests):
            super().see(ids, digests)
            samples = toy_samples(20, seed=3)
            np.savez(tmp_path / "data.npz", x=samples.images.numpy(), y=bench.dataset.read(0, 20).samples.labels)

    plan, store = plan_of(faulty_checks.Good), Store(tmp_path / "units")
    with (
        worker_processes(bench, store, Silent(), 1) as executor,
        pytest.raises(ExecutionError, match="sees other samples than the audit began with"),
    ):
        execute(bench, plan, store, Silent(), Changing(tmp_path, {}), Hands(executor))
    assert not list((tmp_path / "units").glob("*"))


def test_getting_ready_is_no_part_of_a_units_time(tmp_path, monkeypatch):
    """Importing torch alone takes longer than this unit may."""
    monkeypatch.setattr(dispatch, "_GRACE_SECONDS", 1.0)
    bench = bench_in(tmp_path, time_limit=0.5)
    plan, store = plan_of(faulty_checks.Good), Store(tmp_path / "units")
    with worker_processes(bench, store, Silent(), 1) as executor:
        execution = execute(bench, plan, store, Silent(), Journal(tmp_path, {}), Hands(executor))
    assert execution.failures == {}


def test_a_worker_that_does_not_get_ready_ends_the_audit_and_says_why(tmp_path, bench):
    plan, store = plan_of(faulty_checks.Good), Store(tmp_path / "units")
    (tmp_path / "model.pt").unlink()
    with (
        worker_processes(bench, store, Silent(), 1) as executor,
        pytest.raises(ExecutionError, match=r"^a worker on .* does not get ready: .*model\.pt"),
    ):
        execute(bench, plan, store, Silent(), Journal(tmp_path, {}), Hands(executor))
