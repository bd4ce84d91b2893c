"""Phrases that the plain words of classifiers and of detectors share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from auditkit.report.text import plural
from auditkit.result import CheckRecord, Result

__all__ = ["KINDS", "NOISE", "PIXELS", "STICKERS", "noise_words", "nothing_known", "unknown"]

NOISE, PIXELS, STICKERS = "noise", "changed pixels", "stickers"
KINDS = {"linf": NOISE, "l2": NOISE, "l1": NOISE, "l0": PIXELS, "area": STICKERS}
"""The kind of change that each norm measures, the hardest to see first."""

_NORMS = {"linf": "L-inf", "l2": "L2", "l1": "L1"}


def nothing_known(result: Result) -> str:
    """Return the sentence for an audit without findings."""
    return f"{result.model.name} was to be audited, but no check was run to its end: nothing is known about it."


def noise_words(norm: str, budget: str) -> str:
    """Return noise with its budget, for readers who know no norms."""
    part, _, whole = budget.partition("/")
    if norm == "linf" and whole:
        return f"noise of up to {part} of {whole} brightness levels"
    return f"noise of size {budget} ({_NORMS.get(norm, norm)})"


def unknown(result: Result, done: Sequence[CheckRecord], missing: Iterable[str]) -> str:
    """Say what is in doubt, and what was not tested: what is `missing`, and what no audit tests."""
    silent = len(result.checks) - len(done)
    parts = [*missing]
    if silent:
        parts.append(f"what {silent} of {plural(len(result.checks), 'check')} would have shown")
    parts.append("attackers stronger than these")
    if result.samples.outside is None:
        parts.append("images unlike these")
    return f"{_doubt(result)}Not tested: {', '.join(parts)}."


def _doubt(result: Result) -> str:
    """Return what stands before the list of what was not tested."""
    remarks = len(result.flags) + sum(note.level == "warning" for note in result.notes)
    if any(flag.doubts for flag in result.flags):
        return "A check found reasons to doubt the attacks: the model may be weaker than these numbers say. "
    if remarks:
        return f"{plural(remarks, 'remark')} under “Read with care” limit{'s' if remarks == 1 else ''} all of this. "
    return ""
