"""The fuzzer itself: it finds each kind of bug that is planted, and gives the same inputs again."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import planted_targets
import pytest
from children import fuzz_in_children
from harness import Target, fuzz, input_of
from mutate import Draw
from structure import bundle, mutated_inside, unbundle

HERE = Path(__file__).parent
PLANTED = {target.name: target for target in planted_targets.TARGETS}
# What can be seen without giving up the process; the other planted bugs end it or hang it.
SEEN_HERE = {
    "raises": "KeyError",
    "swallows": "opened for writing outside the folder",
    "says_two_lines": "a message of 2 lines",
    "warns": "UserWarning",
    "removes": "os.remove outside the folder",
    "reads_a_secret": "read outside the folder",
    "follows_a_link": "opened for writing outside the folder",
    "evaluates": "ran code made by",
    "unpickles": "pickle.find_class",
    "imports": "ran the code of",
    "imports_a_name": "imported fuzz_canary",
    "starts_a_program": "subprocess.Popen",
    "allocates": "MemoryError",
}
SEEN_FROM_OUTSIDE = {"crashes": "SIGSEGV", "exits": "exit code 3", "hangs_for_good": "had to be killed"}


def _nothing(data: bytes, folder: Path) -> None:
    (folder / "kept").write_bytes(data)


GOOD = Target("good", lambda: [b"one", b"two"], _nothing)


def _draw(seed: int) -> Draw:
    return Draw(np.random.Generator(np.random.Philox(seed)))


@pytest.mark.parametrize("name", SEEN_HERE)
def test_a_planted_bug_is_found_in_this_process(name):
    (finding,) = fuzz(PLANTED[name], 2)
    assert finding.data == b"bad"
    assert SEEN_HERE[name] in finding.problem


def test_an_input_that_takes_too_long_is_found_and_the_next_one_runs():
    (finding,) = fuzz(PLANTED["hangs"], 2, seconds=0.2)
    assert (finding.problem, finding.index) == ("hang", 1)


@pytest.mark.parametrize("name", SEEN_FROM_OUTSIDE)
def test_an_input_that_takes_its_process_along_is_found_from_outside(name):
    (finding,) = fuzz_in_children("planted_targets", name, 2, seconds=0.5)
    assert finding.data == b"bad"
    assert SEEN_FROM_OUTSIDE[name] in finding.problem


def test_inputs_after_one_that_crashed_its_process_run_in_a_new_one():
    found = fuzz_in_children("planted_targets", "exits", 8, seed=3)
    inputs = [input_of(PLANTED["exits"], [b"good", b"bad"], 3, index) for index in range(8)]
    assert [finding.index for finding in found] == [at for at, data in enumerate(inputs) if data == b"bad"]


def test_a_target_that_behaves_has_no_findings_and_may_write_into_its_folder():
    assert fuzz(GOOD, 200) == []


def test_the_guard_is_off_once_the_inputs_have_run(tmp_path):
    fuzz(GOOD, 2)
    (tmp_path / "free").write_text("written")
    assert eval("1 + 1") == 2  # noqa: S307 (that it runs is what is tested)


def test_an_input_depends_on_seed_and_number_alone():
    corpus = GOOD.corpus()
    first = [input_of(GOOD, corpus, 5, index) for index in range(50)]
    assert [input_of(GOOD, corpus, 5, index) for index in reversed(range(50))] == first[::-1]
    assert [input_of(GOOD, corpus, 6, index) for index in range(50)] != first
    assert len(set(first)) > 30


def test_archives_stay_readable_while_what_is_in_them_is_mutated():
    original = bundle({"a.txt": b"some text of some length", "b.txt": b"some other text"})
    readable, changed = 0, set()
    for seed in range(300):
        data = mutated_inside(original, [original], (), _draw(seed), lambda data, corpus, words, draw: data + b"!")
        assert data is not None
        if zipfile.is_zipfile(BytesIO(data)):
            readable += 1
            changed.add(tuple(sorted(unbundle(data).items())))
    assert readable > 250
    assert len(changed) > 10


def test_the_program_prints_a_table_saves_what_went_wrong_and_returns_1(tmp_path):
    command = [sys.executable, HERE / "run.py", "--modules", "planted_targets", "--target", "raises", "--count", "2"]
    ran = subprocess.run([*command, "--save", tmp_path], capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stderr
    assert re.search(r"raises +2 +1 ", ran.stdout), ran.stdout
    assert (tmp_path / "raises-0-1.bin").read_bytes() == b"bad"
    assert "KeyError: 'bad'" in (tmp_path / "raises-0-1.txt").read_text()
    again = subprocess.run([*command[:-2], "--only", "1"], capture_output=True, text=True, check=False)
    assert "KeyError: 'bad'" in again.stdout
