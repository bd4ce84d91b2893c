"""An audit that is killed at any moment and gone on with is the same as one that nobody killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from killed_audits import CHECKS, SETTINGS, made_files

import auditkit
from auditkit.errors import ExecutionError, UsageError
from auditkit.journal import UNFINISHED
from auditkit.progress import Silent
from auditkit.testing import LinearModel, toy_samples

PROGRAM = Path(__file__).parent / "helpers" / "killed_audits.py"
KILLS = int(os.environ.get("AUDITKIT_KILLS", "5"))


@pytest.mark.parametrize(("workers", "trials"), [(0, KILLS), (2, (KILLS + 4) // 5)])
def test_a_kill_at_a_random_moment_changes_nothing(tmp_path, workers, trials):
    ran = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), str(trials), str(workers), "7"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(lines) == trials
    assert all(line["died"] in (-9, 0) for line in lines)
    assert any(line["died"] == -9 for line in lines)
    assert [line["differs"] for line in lines] == [[]] * trials


class Stopping(Silent):
    """Stops the audit in the middle, as Ctrl-C does."""

    def __init__(self):
        self.told = 0

    def advance(self, pairs, key):
        self.told += pairs
        if self.told > 100:
            raise KeyboardInterrupt


@pytest.fixture
def stopped(tmp_path):
    files, out = made_files(tmp_path), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        auditkit.audit(*files, out=out, progress=Stopping(), **SETTINGS)
    assert (out / UNFINISHED).exists()
    return files, out


def other_images(path, rows=80):
    samples = toy_samples(rows, seed=9)
    np.savez(path, x=samples.images.numpy(), y=samples.labels.numpy())


def test_it_goes_on_and_repeats_nothing_that_was_done(stopped):
    files, out = stopped
    kept = {path: path.stat().st_mtime_ns for path in (out / "units").iterdir()}
    audited = auditkit.audit(*files, out=out, **SETTINGS)
    assert [check.status for check in audited.result.checks] == ["done"] * len(CHECKS)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not (out / UNFINISHED).exists()


def test_another_model_is_refused_with_what_changed_and_nothing_is_touched(stopped):
    (model, data), out = stopped
    kept = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    torch.jit.script(LinearModel(classes=3, seed=5).eval()).save(model)
    with pytest.raises(UsageError, match="holds an unfinished audit with another model: it began with SHA-256 "):
        auditkit.audit(model, data, out=out, **SETTINGS)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == kept


def test_another_image_is_refused_by_its_name(stopped):
    (model, data), out = stopped
    with np.load(data) as arrays:
        x, y = arrays["x"].copy(), arrays["y"]
    x[5] = 1 - x[5]
    np.savez(data, x=x, y=y)
    with pytest.raises(ExecutionError, match=r"^5 is not the image \(or label\) that it was"):
        auditkit.audit(model, data, out=out, **SETTINGS)


def test_more_images_are_refused_and_starting_over_is_not(stopped):
    (model, data), out = stopped
    other_images(data, rows=60)
    with pytest.raises(UsageError, match="another number of images: it began with 80, and now it is 60"):
        auditkit.audit(model, data, out=out, **SETTINGS)
    audited = auditkit.audit(model, data, out=out, start_over=True, **SETTINGS)
    assert audited.result.samples.n == 60
    assert not (out / UNFINISHED).exists()


def test_a_folder_with_an_unfinished_audit_has_no_result_to_judge(stopped):
    _, out = stopped
    (out / "result.json").write_text("{}")
    with pytest.raises(UsageError, match="has not ended: the same command goes on with it"):
        auditkit.load_result(out)
