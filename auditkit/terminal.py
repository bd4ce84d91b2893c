"""What a person at a terminal sees while an audit runs, and when it is done."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from auditkit.progress import Silent
from auditkit.quoting import printable
from auditkit.report.text import gate_name, gate_sentence, ordered, verdict_sentence
from auditkit.report.worst import worst_sentence
from auditkit.result import Result, Verdict

__all__ = ["Bar", "Lines", "print_result", "progress_for"]

_SECONDS_BETWEEN_LINES = 10.0
_COLOURS = {
    Verdict.PASS: "green",
    Verdict.FAIL: "red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.WARN: "yellow",
    Verdict.WAIVED: "cyan",
    Verdict.MISSING: "magenta",
}


class Bar:
    """A progress bar with images a second and the time left, on stderr."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description:24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: TaskID | None = None

    def start(self, total: int) -> None:
        """Draw the bar."""
        self._progress.start()
        self._task = self._progress.add_task("starting", total=total, rate="")

    def advance(self, pairs: int, key: str) -> None:
        """Move it."""
        if self._task is None:
            return
        speed = self._progress.tasks[0].speed
        rate = f"{speed:.0f} images/s" if speed else ""
        self._progress.update(self._task, advance=pairs, description=key, rate=rate)

    def close(self) -> None:
        """Take it away."""
        self._progress.stop()


class Lines:
    """A line now and then, for logs."""

    def __init__(self) -> None:
        self._total = 0
        self._done = 0
        self._began = self._last = time.monotonic()

    def start(self, total: int) -> None:
        """Note how much there is to do."""
        self._total, self._began = total, time.monotonic()

    def advance(self, pairs: int, key: str) -> None:
        """Write a line if the last one is some seconds old."""
        self._done += pairs
        now = time.monotonic()
        if pairs and now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            rate = self._done / max(now - self._began, 1e-9)
            sys.stderr.write(f"auditkit: {key}, {self._done} of {self._total} images, {rate:.0f} images/s\n")
            sys.stderr.flush()

    def close(self) -> None:
        """Nothing is left to take away."""


def progress_for(quiet: bool) -> Bar | Lines | Silent:
    """Return a bar for a terminal, lines for anything else, silence if asked for."""
    if quiet:
        return Silent()
    return Bar() if sys.stderr.isatty() else Lines()


def print_result(result: Result, console: Console) -> None:
    """Print the verdict, the requirements, the checks and the flags; what comes from files is never read as markup."""
    console.print(_text(verdict_sentence(result), style=f"bold {_COLOURS.get(result.verdict, '')}"))
    if result.disclaimer:
        console.print(_text(result.disclaimer, style="italic"))
    if result.gates:
        table = Table("requirement", "found", "verdict", box=None, pad_edge=False)
        for gate in ordered(result.gates):
            found = str(gate.estimate) if gate.estimate is not None else "nothing"
            table.add_row(
                _text(gate_name(gate)), found, _text(gate.verdict.value, style=_COLOURS.get(gate.verdict, ""))
            )
        console.print(table)
        for gate in ordered(result.gates):
            if gate.verdict not in (Verdict.PASS, Verdict.FAIL) or gate.note is not None:
                console.print(_text(f"{gate.verdict.value}: {gate.metric}: {gate_sentence(gate)}"))
    if (worst := worst_sentence(result)) is not None:
        console.print(_text(worst, style="bold"))
    for check in result.checks:
        line = _text(f"{check.key}: ", style="bold")
        if check.status == "done":
            shown = [name for name in check.metrics if "@" not in name][:3]
            line.append(printable(", ".join(f"{name} {check.metrics[name]}" for name in shown)), style="not bold")
        else:
            line.append(printable(f"{check.status}: {check.reason}"), style="not bold")
        console.print(line)
    for note in result.notes:
        if note.level == "warning":
            console.print(_text(f"! {note.text} -> {note.remedy}", style="yellow"))
    for flag in result.flags:
        console.print(_text(f"! {flag.check} ({flag.id}): {flag.text} -> {flag.remedy}", style="yellow"))


def _text(told: str, style: str = "") -> Text:
    """Return what may come from files as text that cannot steer a terminal."""
    return Text(printable(told), style=style)
