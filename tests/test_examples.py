"""The examples run as they stand, and what they say follows from the two audits."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "harden_by_retraining"
# The tests also run beside an installed wheel.
if not EXAMPLE.is_dir():
    pytest.skip("the examples are not here", allow_module_level=True)

SMALL = {"COUNT": "60", "HELD_OUT": "30", "STEPS": "25", "QUERIES": "5"}


def typed(command, folder, **settings):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AUDITKIT", "PYTEST"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = inherited | {"PATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"} | settings
    return subprocess.run(
        command, cwd=folder, env=environment, text=True, capture_output=True, timeout=900, check=False
    )


@pytest.fixture(scope="module")
def loop(tmp_path_factory):
    """The example's folder after its loop, and what was printed."""
    folder = tmp_path_factory.mktemp("example") / "here"
    shutil.copytree(EXAMPLE, folder)
    done = typed(["sh", "loop.sh"], folder, **SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return folder, done.stdout


def result(folder, name):
    return json.loads((folder / "run" / name / "result.json").read_text(encoding="utf-8"))


def metrics(audited, key):
    return next(check["metrics"] for check in audited["checks"] if check["key"] == key)


def test_both_audits_stand_side_by_side(loop):
    folder, printed = loop
    for key, name in (
        ("patch.sticker", "clean_accuracy"),
        ("patch.sticker", "robust_accuracy"),
        ("samples.hard", "hard_share"),
    ):
        values = [metrics(result(folder, audit), key)[name]["value"] for audit in ("before", "after")]
        row = next(line for line in printed.splitlines() if line.startswith(f"{key}/{name} "))
        assert [float(value) for value in re.findall(r"(\S+) \(", row)] == pytest.approx(values, rel=5e-3)
    assert "exact McNemar p = " in printed


def test_the_audits_differ_in_nothing_but_the_weights(loop):
    folder, _ = loop
    before, after = result(folder, "before"), result(folder, "after")
    assert before["samples"] == after["samples"]
    assert [check["options"] for check in before["checks"]] == [check["options"] for check in after["checks"]]
    assert before["samples"] != result(folder, "mining")["samples"]
    first, second = (load_file(folder / "run" / f"{name}.safetensors") for name in ("first", "second"))
    assert any((first[name] != second[name]).any() for name in first)


def test_all_that_was_exported_is_learned_from(loop):
    folder, printed = loop
    with (folder / "run" / "exported" / "manifest.csv").open(newline="", encoding="utf-8") as file:
        exported = list(csv.DictReader(file))
    assert {line["check"] for line in exported} == {"", "patch.sticker"}
    assert f"second.safetensors: 25 steps on {60 + len(exported)} images" in printed


def test_audits_of_different_images_are_not_compared(loop):
    folder, _ = loop
    done = typed(["python", "compare.py", "run/before", "run/mining"], folder)
    assert done.returncode != 0
    assert "different images" in done.stderr


def test_the_readme_names_all_that_is_there(loop):
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert [file.name for file in EXAMPLE.iterdir() if file.suffix in (".py", ".sh") and file.name not in text] == []
    written = {entry.name for entry in (loop[0] / "run").iterdir()}
    named = set(re.findall(r"`(\w+\.(?:npz|safetensors)|before|after|exported)\b", text))
    assert named <= written
