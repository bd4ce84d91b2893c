"""Judge a stored result against requirements: a pure function; the whole interval must lie on the right side."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from auditkit.budgets import budget_text, parse_budget
from auditkit.errors import ExitCode, UsageError
from auditkit.result import CheckRecord, GateRecord, Result, Verdict
from auditkit.stats import Estimate, images_to_decide

__all__ = ["Gate", "exit_code", "judge", "overall", "parse_gate"]

Bound = Literal[">=", "<=", ">", "<"]

_GATE = re.compile(r"^\s*(?P<check>[^\s/]+)/(?P<metric>\S+)\s*(?P<bound>>=|<=|>|<)\s*(?P<threshold>\S+)\s*$")

# What every attack also reports, and no attack has a part in.
_WITHOUT_ATTACK = "clean_accuracy"


@dataclass(frozen=True)
class Gate:
    """A requirement: a metric of a check, a bound and a threshold."""

    check: str
    metric: str
    bound: Bound
    threshold: float
    threshold_text: str

    @property
    def name(self) -> str:
        """The metric as results name it, `check/metric`."""
        return f"{self.check}/{self.metric}"

    def __str__(self) -> str:
        return f"{self.name} {self.bound} {self.threshold_text}"


def parse_gate(text: str) -> Gate:
    """Read a gate such as `noise.pgd/robust_accuracy@2/255 >= 0.4` (or `>= 40%`).

    Raises:
        UsageError: the text does not have that form.
    """
    match = _GATE.match(text)
    if match is None:
        raise UsageError(
            f'a gate reads "check/metric >= number", such as "noise.pgd/robust_accuracy >= 0.4"; got {text!r}'
        )
    wanted = match["threshold"]
    try:
        threshold = parse_budget(wanted[:-1]) / 100 if wanted.endswith("%") else _number(wanted)
    except ValueError:
        raise UsageError(f"the threshold of a gate is a number, a fraction or a percentage; got {text!r}") from None
    return Gate(match["check"], _metric(match["metric"]), cast(Bound, match["bound"]), threshold, wanted)


def _metric(name: str) -> str:
    """Write a metric's budget as results do: `@0.5/255` and `@0.00196` are then the same."""
    plain, at, budget = name.partition("@")
    try:
        return plain + at + budget_text(parse_budget(budget)) if at else plain
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None


def _number(text: str) -> float:
    return -parse_budget(text[1:]) if text.startswith("-") else parse_budget(text)


def judge(result: Result, gates: Iterable[Gate]) -> Result:
    """Return `result` with these gates judged, in place of any it carried."""
    records = tuple(_judge_one(result, gate) for gate in gates)
    return result.model_copy(update={"gates": records, "verdict": overall(records)})


def _judge_one(result: Result, gate: Gate) -> GateRecord:
    check = result.check(gate.check)
    estimate = check.metrics.get(gate.metric) if check is not None and check.status == "done" else None
    verdict = _verdict(gate, estimate) if estimate is not None else Verdict.MISSING
    attacked = gate.metric.partition("@")[0] != _WITHOUT_ATTACK
    doubt = _doubt(result, check) if verdict is Verdict.PASS and attacked else None
    return GateRecord(
        metric=gate.name,
        bound=gate.bound,
        threshold=gate.threshold,
        threshold_text=gate.threshold_text,
        verdict=Verdict.INCONCLUSIVE if doubt else verdict,
        estimate=estimate,
        text=doubt or (_sentence(gate, verdict, estimate) if estimate is not None else _why_missing(gate, check)),
    )


def _doubt(result: Result, check: CheckRecord | None) -> str | None:
    """Return why a check proves nothing although its numbers meet the requirement."""
    for flag in result.flags:
        doubted = set(flag.doubts) & set(check.needs if check is not None else ())
        if doubted:
            return (
                f"the numbers meet the requirement, but {flag.id} was raised, so checks that need "
                f"{', '.join(sorted(doubted))} prove nothing: {flag.remedy}"
            )
    return None


def _verdict(gate: Gate, estimate: Estimate) -> Verdict:
    at_least = gate.bound in (">=", ">")
    strict = gate.bound in (">", "<")
    near, far = (estimate.low, estimate.high) if at_least else (-estimate.high, -estimate.low)
    threshold = gate.threshold if at_least else -gate.threshold
    if near > threshold or (near == threshold and not strict):
        return Verdict.PASS
    if far < threshold or (far == threshold and strict):
        return Verdict.FAIL
    return Verdict.INCONCLUSIVE


def _sentence(gate: Gate, verdict: Verdict, estimate: Estimate) -> str:
    interval = f"{estimate.value:.4g}, interval {estimate.low:.4g} to {estimate.high:.4g} on {estimate.n} images"
    required = f"required {gate.bound} {gate.threshold_text}"
    match verdict:
        case Verdict.PASS:
            return f"the whole interval meets the requirement ({interval}; {required})"
        case Verdict.FAIL:
            return f"the whole interval misses the requirement ({interval}; {required})"
        case _:
            needed = images_to_decide(estimate, gate.threshold)
            about = (
                f"about {needed} images would settle it" if needed else "no practical number of images would settle it"
            )
            return f"the interval straddles the threshold ({interval}; {required}); {about}"


def _why_missing(gate: Gate, check: CheckRecord | None) -> str:
    if check is None:
        return f"the audit holds no check {gate.check}"
    if check.status != "done":
        verb = "failed" if check.status == "failed" else f"was {check.status}"
        return f"{gate.check} {verb}: {check.reason}"
    known = ", ".join(sorted(check.metrics)) or "none"
    return f"{gate.check} gave no metric {gate.metric}; it gave {known}"


def overall(gates: Sequence[GateRecord]) -> Verdict:
    """Return the verdict of all gates together: the worst of them, NONE where there are none."""
    for verdict in (Verdict.FAIL, Verdict.MISSING, Verdict.INCONCLUSIVE):
        if any(gate.verdict is verdict for gate in gates):
            return verdict
    return Verdict.PASS if gates else Verdict.NONE


def exit_code(result: Result) -> ExitCode:
    """Return what the shell is told: doubt, missing evidence and crashed checks never read as a pass."""
    if not any(check.status == "done" for check in result.checks):
        return ExitCode.EXECUTION if any(c.status == "failed" for c in result.checks) else ExitCode.NOTHING_EVALUATED
    if result.verdict is Verdict.FAIL:
        return ExitCode.FAIL
    if result.verdict is Verdict.MISSING or any(check.status == "failed" for check in result.checks):
        return ExitCode.EXECUTION
    if result.verdict is Verdict.INCONCLUSIVE:
        return ExitCode.INCONCLUSIVE
    return ExitCode.PASS
