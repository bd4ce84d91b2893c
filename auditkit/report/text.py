"""The wording that every output shares: verdicts, numbers, order."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from auditkit.anytime import ANYTIME_CHANGE, SHARES
from auditkit.paired import PAIRED_SHARE
from auditkit.result import CheckRecord, GateRecord, Result, Verdict
from auditkit.stats import CONFIDENCE, Estimate

__all__ = [
    "VERDICT_WORDS",
    "Headline",
    "clean",
    "counted",
    "date_text",
    "error_rates",
    "estimate_text",
    "gate_name",
    "gate_sentence",
    "headline",
    "interval_text",
    "is_share",
    "is_share_change",
    "metric_title",
    "number_text",
    "ordered",
    "percent",
    "plural",
    "requirement_text",
    "split_metric",
    "stopped_early",
    "value_text",
    "verdict_lines",
    "verdict_sentence",
]

VERDICT_WORDS = {
    Verdict.FAIL: "Fail",
    Verdict.MISSING: "No evidence",
    Verdict.INCONCLUSIVE: "Inconclusive",
    Verdict.WARN: "Warning",
    Verdict.WAIVED: "Waived",
    Verdict.PASS: "Pass",
    Verdict.NONE: "Not gated",
}

_ORDER = tuple(VERDICT_WORDS)
_OUTCOMES = {
    Verdict.NONE: "NOT GATED",
    Verdict.WARN: "PASS WITH WARNINGS",
    Verdict.WAIVED: "PASS WITH WAIVERS",
}

_OF_OBJECTS = "Korn-Graubard"
# Resampled images, for average precision alone; too few of them to tell; objects that hang together by image.
_ABOUT = ("bootstrap over images", "everything possible", _OF_OBJECTS)
_SHARES = (*SHARES, *_ABOUT)

# What XML 1.0 cannot hold, and the controls that reorder the text around them.
_UNPRINTABLE = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Headline:
    """The outcome of an audit: a word in capitals, the verdict whose colour it bears, and a sentence."""

    word: str
    verdict: Verdict
    sentence: str


def verdict_sentence(result: Result) -> str:
    """Return the outcome in one line, such as `FAIL: 2 of 9 requirements are not met`."""
    outcome = headline(result)
    return f"{outcome.word}: {outcome.sentence}"


def verdict_lines(result: Result) -> list[str]:
    """Return the outcome, and a line for every gate and check that speaks against the model."""
    gates = [gate for gate in ordered(result.gates) if gate.verdict is not Verdict.PASS]
    failed = [check for check in result.checks if check.status == "failed"]
    return [
        verdict_sentence(result),
        *(f"{gate.verdict.value}: {gate_name(gate)}: {gate_sentence(gate)}" for gate in gates),
        *(f"{check.key} failed: {check.reason}" for check in failed),
    ]


def headline(result: Result) -> Headline:
    """Return the outcome, in the order of precedence that the exit codes have."""
    broken = sum(check.status == "failed" for check in result.checks)
    crashed = f"{plural(broken, 'check')} failed to run" if broken else ""
    if not any(check.status == "done" for check in result.checks):
        return Headline("NOTHING EVALUATED", Verdict.MISSING, crashed or "no check was run to its end")
    if result.verdict is Verdict.FAIL:
        return Headline("FAIL", Verdict.FAIL, _not_met(result, crashed))
    if result.verdict is Verdict.MISSING:
        missing = _share_of_gates(result, Verdict.MISSING, "has no evidence", "have no evidence")
        return Headline("INCOMPLETE", Verdict.MISSING, _with(missing, crashed))
    if broken:
        return Headline("INCOMPLETE", Verdict.MISSING, f"{_undisputed(result)}, but {crashed}")
    word = _OUTCOMES.get(result.verdict, result.verdict.value.upper())
    return Headline(word, result.verdict, _undisputed(result))


def _undisputed(result: Result) -> str:
    if result.verdict is Verdict.NONE:
        return "no requirements were set"
    if result.verdict is Verdict.INCONCLUSIVE:
        return _share_of_gates(result, Verdict.INCONCLUSIVE, "is undecided", "are undecided")
    n = len(result.gates)
    if result.verdict is Verdict.PASS:
        return {1: "the requirement is met", 2: "both requirements are met"}.get(n, f"all {n} requirements are met")
    met = _share_of_gates(result, Verdict.PASS, "is met", "are met")
    return f"{met}, {', '.join(_tally(result, (Verdict.WARN, 'only warned about'), (Verdict.WAIVED, 'waived')))}"


def _not_met(result: Result, crashed: str) -> str:
    missed = _share_of_gates(result, Verdict.FAIL, "is not met", "are not met")
    others = _tally(
        result,
        (Verdict.MISSING, "without evidence"),
        (Verdict.INCONCLUSIVE, "undecided"),
        (Verdict.WARN, "only warned about"),
        (Verdict.WAIVED, "waived"),
    )
    return _with(missed, ", ".join(filter(None, (*others, crashed))))


def _tally(result: Result, *words: tuple[Verdict, str]) -> list[str]:
    """Return how many gates have each of these verdicts, in words, without those that none has."""
    counts = ((sum(gate.verdict is verdict for gate in result.gates), text) for verdict, text in words)
    return [f"{count} {text}" for count, text in counts if count]


def _share_of_gates(result: Result, verdict: Verdict, singular: str, several: str) -> str:
    count = sum(gate.verdict is verdict for gate in result.gates)
    verb = singular if count == 1 or len(result.gates) == 1 else several
    return f"{count} of {plural(len(result.gates), 'requirement')} {verb}"


def _with(text: str, addition: str) -> str:
    return f"{text} ({addition})" if addition else text


def ordered(gates: Iterable[GateRecord]) -> list[GateRecord]:
    """Return the gates as a reader needs them, in the order of `VERDICT_WORDS`; as given within each."""
    return sorted(gates, key=lambda gate: _ORDER.index(gate.verdict))


def split_metric(name: str) -> tuple[str, str]:
    """Split `check/metric` into the check's key and the metric, whose own name may hold slashes."""
    key, _, metric = name.partition("/")
    return key, metric


def metric_title(check: CheckRecord | None, metric: str) -> str:
    """Return what the check calls this metric, else its name as words."""
    titles = check.metric_titles if check is not None else {}
    name, _, budget = metric.partition("@")
    title = titles.get(metric) or titles.get(name) or name.replace("_", " ").capitalize()
    return f"{title} at {budget}" if budget and metric not in titles else title


def is_share(estimate: Estimate) -> bool:
    """Return whether the estimate is a share, or an average precision or a loss of it: what reads best in per cent."""
    return estimate.method.startswith(_SHARES)


def counted(estimate: Estimate) -> str:
    """Return how many images are behind the estimate, or how many objects."""
    return plural(estimate.n, "object") if estimate.of_objects else str(estimate.n)


def is_share_change(estimate: Estimate) -> bool:
    """Return whether the estimate is the difference of two shares, which reads best in percentage points."""
    return estimate.method in (PAIRED_SHARE, ANYTIME_CHANGE)


def percent(share: float) -> str:
    """Return a share in [0, 1] such as `41.2 %`."""
    return f"{share * 100:.1f} %"


def number_text(number: float) -> str:
    """Return a number to four digits, such as `0.0317` or `12350`; whole numbers of type int with all of theirs."""
    if isinstance(number, int):
        return str(number)
    rounded = float(f"{number:.4g}") + 0.0  # there is no minus zero
    # Python writes an exponent from 10,000 on; readers expect one later.
    return f"{rounded:.0f}" if 1e4 <= abs(rounded) < 1e7 else f"{rounded:.4g}"


def value_text(estimate: Estimate) -> str:
    """Return the value alone: in per cent for a share, in points for a difference of shares, else to four digits."""
    if is_share_change(estimate):
        return _points(estimate.value)
    return percent(estimate.value) if is_share(estimate) else number_text(estimate.value)


def _points(difference: float) -> str:
    return f"{difference * 100 + 0.0:.1f} points"


def interval_text(estimate: Estimate) -> str:
    """Return the interval alone, such as `37.2 to 45.2 %`; empty where it has no width."""
    if is_share(estimate):
        return f"{estimate.low * 100:.1f} to {percent(estimate.high)}"
    if is_share_change(estimate):
        return f"{estimate.low * 100:.1f} to {_points(estimate.high)}"
    return f"{number_text(estimate.low)} to {number_text(estimate.high)}" if estimate.low < estimate.high else ""


def estimate_text(estimate: Estimate) -> str:
    """Return value and interval, such as `41.2 % (37.2 to 45.2 %)`."""
    return _with(value_text(estimate), interval_text(estimate))


def requirement_text(gate: GateRecord) -> str:
    """Return what a gate demands of its metric, such as `≥ 40 %` or `drop ≤ 2 points`."""
    sign = {">=": "≥", "<=": "≤"}.get(gate.bound, gate.bound)
    change = f"{gate.change} " if gate.change is not None else ""
    if gate.estimate is not None and is_share(gate.estimate):
        return f"{sign} {gate.threshold * 100:.4g} %"
    if gate.estimate is not None and is_share_change(gate.estimate):
        return f"{change}{sign} {gate.threshold * 100:.4g} points"
    return f"{change}{sign} {gate.threshold_text}"


def gate_name(gate: GateRecord) -> str:
    """Return a requirement as it was set, such as `noise.pgd/robust_accuracy >= 40%`."""
    change = f" {gate.change}" if gate.change is not None else ""
    return f"{gate.metric}{change} {gate.bound} {gate.threshold_text}"


def gate_sentence(gate: GateRecord) -> str:
    """Return what was found, and what level and waiver make of it."""
    return f"{gate.note}; {gate.text}" if gate.note is not None else gate.text


def stopped_early(result: Result) -> bool:
    """Return whether the audit left images out because every requirement was decided without them."""
    left_out = (result.samples.of or 0) - result.samples.n - len(result.samples.skipped)
    return bool(result.settings.get("until_decided")) and left_out > 0


def error_rates(result: Result) -> str:
    """Return how often the verdict is wrong by the luck of the draw of images, for the gates that count."""
    n = sum(gate.level == "error" for gate in result.gates)
    tail = 100 * (1 - result.settings.get("confidence", CONFIDENCE)) / 2
    whenever = ", although the audit could stop early" if result.settings.get("until_decided") else ""
    just = "just meets it" if n == 1 else f"just meets all {n}"
    # Their intervals hold for many images, not at every number of them.
    near = any(gate.estimate is not None and gate.estimate.method.startswith(_ABOUT) for gate in result.gates)
    most = "at most about" if near else "at most"
    return (
        f"A requirement that is not met passes by luck {most} {tail:.3g} % of the time{whenever}, and so does the "
        f"audit, which passes only if every requirement does. A model that {just} fails by bad luck {most} "
        f"{min(n * tail, 100):.3g} % of the time."
    )


def plural(count: int, noun: str) -> str:
    """Return `1 check`, `2 checks`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def date_text(recorded: object) -> str:
    """Return an ISO date and time in UTC as people write it; anything else as it is."""
    text = "not recorded" if recorded is None else str(recorded)
    return f"{text[:10]} {text[11:16]} UTC" if text.endswith("+00:00") and text[10:11] == "T" else text


def clean(text: str) -> str:
    """Replace characters that XML cannot hold, or that would reorder the text around them."""
    return _UNPRINTABLE.sub("\ufffd", text)
