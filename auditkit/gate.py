"""Judge a stored result against requirements: a pure function; the whole interval must lie on the right side."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence

from auditkit.anytime import SHARES
from auditkit.errors import ExitCode
from auditkit.requirements import Gate
from auditkit.result import CheckRecord, GateRecord, Result, Verdict
from auditkit.stats import Estimate, images_to_decide

__all__ = ["Changes", "exit_code", "judge", "judge_again", "overall", "verdict_of"]

Changes = Callable[[Gate], Estimate | str]
"""How far a gate's metric fell or rose since the baseline, or why that cannot be said."""

# What every attack also reports, and no attack has a part in.
_WITHOUT_ATTACK = "clean_accuracy"
_OPEN = (Verdict.FAIL, Verdict.MISSING, Verdict.INCONCLUSIVE)


def judge(
    result: Result, gates: Iterable[Gate], *, on: datetime.date | None = None, changes: Changes | None = None
) -> Result:
    """Return `result` with these gates judged, in place of any it carried.

    `on` is the day that waivers must not have ended before, by default that of the audit; `changes` compares with a
    baseline, and without it gates on changes are missing their evidence.
    """
    day = on if on is not None else _day_of(result)
    records = tuple(_settled(_judge_one(result, gate, changes), day) for gate in gates)
    return result.model_copy(update={"gates": records, "verdict": overall(records)})


def judge_again(result: Result, on: datetime.date) -> Result:
    """Return `result` with its own gates as they count on a day: waivers may have ended since."""
    records = tuple(_settled(gate, on) for gate in result.gates)
    return result.model_copy(update={"gates": records, "verdict": overall(records)})


def _day_of(result: Result) -> datetime.date:
    try:
        return datetime.datetime.fromisoformat(str(result.volatile.get("date"))).date()
    except ValueError:  # a result made by hand: no waiver has ended
        return datetime.date.min


def _judge_one(result: Result, gate: Gate, changes: Changes | None) -> GateRecord:
    check = result.check(gate.check)
    found = _found(check, gate, changes)
    estimate = found if isinstance(found, Estimate) else None
    verdict = verdict_of(gate, estimate) if estimate is not None else Verdict.MISSING
    attacked = gate.metric.partition("@")[0] != _WITHOUT_ATTACK
    doubt = _doubt(result, check) if verdict is Verdict.PASS and attacked else None
    measured = Verdict.INCONCLUSIVE if doubt else verdict
    return GateRecord(
        metric=gate.name,
        change=gate.change,
        bound=gate.bound,
        threshold=gate.threshold,
        threshold_text=gate.threshold_text,
        level=gate.level,
        waiver=gate.waiver,
        verdict=measured,
        measured=measured,
        estimate=estimate,
        text=doubt or (_sentence(gate, verdict, found) if isinstance(found, Estimate) else found),
    )


def _found(check: CheckRecord | None, gate: Gate, changes: Changes | None) -> Estimate | str:
    """Return what the gate is about, or why there is nothing to judge."""
    if check is None or check.status != "done" or gate.metric not in check.metrics:
        return _why_missing(gate, check)
    if gate.change is None:
        return check.metrics[gate.metric]
    if changes is None:
        return f"there is no baseline to compare with; --baseline RESULT names one ({gate})"
    return changes(gate)


def _settled(record: GateRecord, on: datetime.date) -> GateRecord:
    """Let level and waiver say what the numbers come to."""
    verdict, note, waiver = record.measured, None, record.waiver
    if verdict is Verdict.PASS:
        note = "its waiver is not needed" if waiver is not None else None
    elif waiver is not None and on <= waiver.until:
        note = f"waived by {waiver.owner} until {waiver.until.isoformat()}: {waiver.reason}"
        verdict = Verdict.WAIVED
    else:
        ended = f"its waiver by {waiver.owner} ended on {waiver.until.isoformat()}" if waiver is not None else None
        verdict = Verdict.WARN if record.level == "warn" else verdict
        note = ended if verdict is not Verdict.WARN else "; ".join(filter(None, (ended, "a warning only")))
    return record.model_copy(update={"verdict": verdict, "note": note})


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


def verdict_of(gate: Gate, estimate: Estimate) -> Verdict:
    """Return on which side of the threshold the whole interval lies: pass, fail, or inconclusive for neither."""
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
    change = f"{gate.change} of " if gate.change is not None else ""
    unit = "objects" if estimate.of_objects else "images"
    interval = (
        f"{change}{estimate.value:.4g}, interval {estimate.low:.4g} to {estimate.high:.4g} on {estimate.n} {unit}"
    )
    required = f"required {gate.bound} {gate.threshold_text}"
    match verdict:
        case Verdict.PASS:
            return f"the whole interval meets the requirement ({interval}; {required})"
        case Verdict.FAIL:
            return f"the whole interval misses the requirement ({interval}; {required})"
        case _:
            needed = images_to_decide(estimate, gate.threshold, SHARES.get(estimate.method))
            about = (
                f"about {needed} {unit} would settle it" if needed else f"no practical number of {unit} would settle it"
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
    for verdict in (*_OPEN, Verdict.WARN, Verdict.WAIVED):
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
