"""Why the verdict is what it is, in one line: the requirement or the check that decided."""

from __future__ import annotations

from auditkit.report.text import (
    headline,
    metric_title,
    ordered,
    requirement_text,
    split_metric,
    value_text,
)
from auditkit.result import GateRecord, Result, Verdict

__all__ = ["deciding_gate", "verdict_reason"]

_DOUBTFUL = (Verdict.FAIL, Verdict.MISSING, Verdict.INCONCLUSIVE, Verdict.WARN, Verdict.WAIVED)


def deciding_gate(result: Result) -> GateRecord | None:
    """Return the first requirement that has the verdict of the whole audit, None where all are met or none is set."""
    verdict = headline(result).verdict
    if verdict not in _DOUBTFUL:
        return None
    return next((gate for gate in ordered(result.gates) if gate.verdict is verdict), None)


def verdict_reason(result: Result) -> str | None:
    """Return what decided, such as `Robust accuracy (noise.pgd): 5.2 % found, ≥ 40 % required`; None if nothing did."""
    gate = deciding_gate(result)
    if gate is not None:
        key, metric = split_metric(gate.metric)
        name = f"{metric_title(result.check(key), metric)} ({key})"
        if gate.estimate is None:
            return f"{name}: {gate.text}"
        found = value_text(gate.estimate) if gate.change is None else f"{gate.change} of {value_text(gate.estimate)}"
        return f"{name}: {found} found, {requirement_text(gate)} required"
    broken = next((check for check in result.checks if check.status == "failed"), None)
    if broken is not None:
        return f"{broken.key} failed: {broken.reason or 'no reason was recorded'}"
    return None
