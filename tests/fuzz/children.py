"""Targets in child processes: an input that crashes or hangs its process is a finding, and the others go on."""

from __future__ import annotations

import base64
import faulthandler
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Finding, Target, attempt, bounded_memory, input_of

__all__ = ["MODULES", "fuzz_in_children", "targets_of"]

MODULES = ("data_targets", "model_targets")
_HERE = Path(__file__).resolve().parent
_START = 180.0
"""Seconds that a child may take before its first input: imports, and making the corpus."""


def targets_of(module: str) -> tuple[Target, ...]:
    """Return the targets of a module of this folder; none if there is no such module."""
    if not (_HERE / f"{module}.py").is_file():
        return ()
    targets: tuple[Target, ...] = importlib.import_module(module).TARGETS
    return targets


def fuzz_in_children(
    module: str, target: str, count: int, seed: int = 0, *, start: int = 0, seconds: float = 20.0
) -> list[Finding]:
    """Run inputs number `start` to `start + count` of a target in children; a new one after each that ended."""
    found: list[Finding] = []
    at, end = start, start + count
    while at < end:
        at = _one_child(module, target, seed, at, end, seconds, found)
    return found


def _one_child(module: str, target: str, seed: int, start: int, end: int, seconds: float, found: list[Finding]) -> int:
    """Run one child as far as it comes, and return where the next one has to go on."""
    read, write = os.pipe()
    with tempfile.TemporaryFile() as errors:
        command = [sys.executable, __file__, module, target, str(seed), str(start), str(end), str(seconds), str(write)]
        child = subprocess.Popen(command, pass_fds=(write,), stdout=errors, stderr=errors, cwd=_HERE)
        os.close(write)
        try:
            at, hung = _follow(read, Finding(target, seed, start, b"", "", ""), seconds, found)
        finally:
            if child.poll() is None and _still_runs(child):
                child.kill()
            code = child.wait()
            os.close(read)
        if at >= end:
            return at
        errors.seek(0)
        said = errors.read().decode(errors="replace")[-4000:]
    if at < 0:
        raise RuntimeError(f"the child of {target} did not start (exit code {code}):\n{said}")
    problem = "hang, and the process had to be killed" if hung else f"the process ended: {_ending(code)}"
    found.append(Finding(target, seed, at, _data(module, target, seed, at), problem, said))
    return at + 1


def _still_runs(child: subprocess.Popen[bytes]) -> bool:
    """Wait a moment for a child whose pipe is closed; return whether it still runs."""
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        return True
    return False


def _follow(pipe: int, blank: Finding, seconds: float, found: list[Finding]) -> tuple[int, bool]:
    """Read what a child tells; return the input that it is at, -1 before the first, and whether it went silent."""
    at, rest = -1, b""
    while True:
        ready, _, _ = select.select([pipe], [], [], _START if at < 0 else 3 * seconds)
        if not ready:
            return at, True
        piece = os.read(pipe, 65536)
        if not piece:
            return at, False
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            told = json.loads(line)
            at = told["at"]
            if "problem" in told:
                data = base64.b64decode(told["data"])
                found.append(Finding(blank.target, blank.seed, at, data, told["problem"], told["detail"]))


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _data(module: str, target: str, seed: int, index: int) -> bytes:
    chosen = next(each for each in targets_of(module) if each.name == target)
    return input_of(chosen, chosen.corpus(), seed, index)


def _child(module: str, name: str, seed: int, start: int, end: int, seconds: float, pipe: int) -> None:
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    target = next(each for each in targets_of(module) if each.name == name)
    corpus = target.corpus()
    with bounded_memory(3 * 2**30):
        for index in range(start, end):
            os.write(pipe, json.dumps({"at": index}).encode() + b"\n")
            data = input_of(target, corpus, seed, index)
            gone_wrong = attempt(target, data, seconds)
            if gone_wrong is not None:
                problem, detail = gone_wrong
                told = {"at": index, "problem": problem, "detail": detail, "data": base64.b64encode(data).decode()}
                _write(pipe, json.dumps(told).encode() + b"\n")
    os.write(pipe, json.dumps({"at": end}).encode() + b"\n")


def _write(pipe: int, content: bytes) -> None:
    while content:
        content = content[os.write(pipe, content) :]


if __name__ == "__main__":
    _module, _name, *_numbers = sys.argv[1:]
    _seed, _first, _last, _pipe = (int(_numbers[place]) for place in (0, 1, 2, 4))
    _child(_module, _name, _seed, _first, _last, float(_numbers[3]), _pipe)
