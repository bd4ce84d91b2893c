"""Fuzz every target in child processes: `python tests/fuzz/run.py --count 10000 [--target NAME] [--seed N]`."""

# ruff: noqa: T201 (a program: what it prints is its result)

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from children import MODULES, fuzz_in_children, targets_of
from harness import Finding, attempt, input_of

_SAVED_OF_ONE_PROBLEM = 3


def main() -> int:
    """Run the targets that were asked for; print a table, and return 1 if anything was found."""
    given = _arguments()
    targets = [(module, target) for module in given.modules.split(",") for target in targets_of(module)]
    if given.list:
        print("\n".join(target.name for _, target in targets))
        return 0
    chosen = [(module, target) for module, target in targets if given.target in (None, target.name)]
    if not chosen:
        print(f"no target {given.target}; there are {', '.join(target.name for _, target in targets)}")
        return 2
    if given.only is not None or given.input is not None:
        target = chosen[0][1]
        corpus = target.corpus()
        data = given.input.read_bytes() if given.input else input_of(target, corpus, given.seed, given.only)
        print(*(attempt(target, data, given.seconds) or ("nothing went wrong",)), sep="\n")
        return 0
    print(f"{'target':<24}{'inputs':>9}{'findings':>10}{'inputs/s':>10}", flush=True)
    every: list[Finding] = []
    for module, target in chosen:
        began = time.monotonic()
        found = _side_by_side(module, target.name, given)
        rate = given.count / (time.monotonic() - began)
        print(f"{target.name:<24}{given.count:>9}{len(found):>10}{rate:>10.0f}", flush=True)
        for problem, times in Counter(finding.problem for finding in found).most_common():
            print(f"    {times} x {problem}", flush=True)
        every += found
    _save(every, given.save)
    return 1 if every else 0


def _side_by_side(module: str, target: str, given: argparse.Namespace) -> list[Finding]:
    """Give each of some children its part of the inputs; return what all of them found, in order."""
    ends = [given.start + given.count * job // given.jobs for job in range(given.jobs + 1)]

    def part(job: int) -> list[Finding]:
        start, count = ends[job], ends[job + 1] - ends[job]
        return fuzz_in_children(module, target, count, given.seed, start=start, seconds=given.seconds)

    with ThreadPoolExecutor(given.jobs) as pool:
        return [finding for found in pool.map(part, range(given.jobs)) for finding in found]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="inputs a target")
    parser.add_argument("--target", help="this one only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first input")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes side by side")
    parser.add_argument("--only", type=int, help="run this input alone, here, and say what went wrong in full")
    parser.add_argument("--input", type=Path, help="run this file alone, here, and say what went wrong in full")
    parser.add_argument("--seconds", type=float, default=20.0, help="after which an input hangs")
    parser.add_argument("--save", type=Path, help="folder for inputs that went wrong; default: a temporary one")
    parser.add_argument("--modules", default=",".join(MODULES), help="where the targets are")
    parser.add_argument("--list", action="store_true", help="name the targets")
    return parser.parse_args()


def _save(found: list[Finding], folder: Path | None) -> None:
    if not found:
        return
    folder = folder or Path(tempfile.mkdtemp(prefix="fuzz-findings-"))
    folder.mkdir(parents=True, exist_ok=True)
    times: Counter[tuple[str, str]] = Counter()
    for finding in found:
        times[finding.target, finding.problem] += 1
        if times[finding.target, finding.problem] <= _SAVED_OF_ONE_PROBLEM:
            name = f"{finding.target}-{finding.seed}-{finding.index}"
            (folder / f"{name}.bin").write_bytes(finding.data)
            (folder / f"{name}.txt").write_text(
                f"{finding.problem}\n{finding.repeat}\n\n{finding.detail}\n", errors="backslashreplace"
            )
    print(f"inputs that went wrong: {folder}")


if __name__ == "__main__":
    sys.exit(main())
