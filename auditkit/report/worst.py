"""The headline of robustness: the least that any attack left, budget by budget.

Of a classifier it is the robust accuracy, of a detector the average precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from auditkit.budgets import parse_budget
from auditkit.report.tasks import task_words
from auditkit.report.text import estimate_text
from auditkit.result import CheckRecord, Result
from auditkit.stats import Estimate

__all__ = ["Worst", "worst_cases", "worst_sentence"]

_BOX = "box"
# What patches cover a share of: the picture, or the box of every object.
_PATCHES = {"patch.dpatch": "area", "patch.vanish": _BOX}


@dataclass(frozen=True)
class Worst:
    """What is left of the accuracy, or the average precision, at one budget, under the attack that leaves least."""

    norm: str
    budget: str
    estimate: Estimate
    check: str
    others: int
    """How many other attacks were tried at this budget."""

    @property
    def words(self) -> str:
        """The budget as people say it."""
        size = _size(self.budget)
        if self.norm == "area" and math.isfinite(size):
            return f"{100 * size:.3g} % of the pixels"
        if self.norm == _BOX and math.isfinite(size):
            return f"{100 * size:.3g} % of each object's box"
        if self.norm == "l0":
            return f"{self.budget} pixel{'' if size == 1 else 's'}"
        return f"{self.norm} {self.budget}"


def worst_cases(result: Result) -> list[Worst]:
    """Return the least that was left for each norm and budget that was attacked, smallest budget first."""
    kept = task_words(result).kept
    found: dict[tuple[str, float, str], list[Worst]] = {}
    for check in result.checks:
        # Without a bound (`free`), budgets of two checks need not mean the same.
        norm = _norm_of(check)
        if norm is None or norm == "free":
            continue
        for name, estimate in check.metrics.items():
            plain, at, budget = name.partition("@")
            if at and plain == kept:
                entry = Worst(norm, budget, estimate, check.key, 0)
                found.setdefault((norm, _size(budget), budget), []).append(entry)
    return [_lowest(entries) for _, entries in sorted(found.items(), key=lambda item: item[0])]


def _norm_of(check: CheckRecord) -> str | None:
    """Return how the budgets of a check are measured, None where it attacks nothing."""
    return _PATCHES.get(check.id, check.norm)


def _size(budget: str) -> float:
    try:
        return parse_budget(budget)
    except ValueError:  # a stored result may hold anything
        return math.inf


def _lowest(entries: Sequence[Worst]) -> Worst:
    least = min(entries, key=lambda entry: (entry.estimate.value, entry.check))
    return Worst(least.norm, least.budget, least.estimate, least.check, len(entries) - 1)


def worst_sentence(result: Result) -> str | None:
    """Return the worst cases in a line, and what casts doubt on them; None where nothing was attacked."""
    cases = worst_cases(result)
    if not cases:
        return None
    shown = "; ".join(f"{estimate_text(case.estimate)} at {case.words} by {case.check}" for case in cases)
    return f"{task_words(result).kept_title}, the lowest that any attack reached: {shown}"
