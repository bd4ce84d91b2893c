"""The headline of robustness: the lowest robust accuracy that any attack reached, budget by budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from auditkit.budgets import parse_budget
from auditkit.report.text import estimate_text
from auditkit.result import Result
from auditkit.stats import Estimate

__all__ = ["Worst", "worst_cases", "worst_sentence"]

_METRIC = "robust_accuracy"


@dataclass(frozen=True)
class Worst:
    """What is left of the accuracy at one budget, under the attack that leaves least."""

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
        if self.norm == "l0":
            return f"{self.budget} pixel{'' if size == 1 else 's'}"
        return f"{self.norm} {self.budget}"


def worst_cases(result: Result) -> list[Worst]:
    """Return the lowest robust accuracy for each norm and budget that was attacked, smallest budget first."""
    found: dict[tuple[str, float, str], list[Worst]] = {}
    for check in result.checks:
        # Without a bound (`free`), budgets of two checks need not mean the same.
        if check.norm is None or check.norm == "free":
            continue
        for name, estimate in check.metrics.items():
            plain, at, budget = name.partition("@")
            if at and plain == _METRIC:
                entry = Worst(check.norm, budget, estimate, check.key, 0)
                found.setdefault((check.norm, _size(budget), budget), []).append(entry)
    return [_lowest(entries) for _, entries in sorted(found.items(), key=lambda item: item[0])]


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
    return f"Robust accuracy, the lowest that any attack reached: {shown}"
