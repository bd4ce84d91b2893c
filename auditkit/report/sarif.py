"""The result as SARIF 2.1.0: what code scanners, and the pages that show their findings, read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote

from auditkit.report.facts import file_digest, is_file, json_text, started, tool_version
from auditkit.report.text import gate_name, gate_sentence, metric_title, split_metric
from auditkit.result import CheckRecord, FlagRecord, GateRecord, Result, Verdict
from auditkit.stats import Estimate
from auditkit.store import unit_digest

__all__ = ["sarif_log"]

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
# The standard allows a level other than none for a result of kind fail only, so doubt is a failure that warns.
_KIND_AND_LEVEL = {
    Verdict.PASS: ("pass", "none"),
    Verdict.FAIL: ("fail", "error"),
    Verdict.MISSING: ("fail", "error"),
    Verdict.NONE: ("fail", "error"),
    Verdict.INCONCLUSIVE: ("fail", "warning"),
    Verdict.WARN: ("fail", "warning"),
    Verdict.WAIVED: ("fail", "note"),
}
_NOTIFICATION_LEVEL = {"failed": "error", "skipped": "note", "warning": "warning", "info": "note"}


def sarif_log(result: Result) -> str:
    """Return the result as SARIF 2.1.0 with one run: a rule a check, requirement and flag, a result a gate and flag."""
    rules = list(_rules(result))
    index = {rule["id"]: number for number, rule in enumerate(rules)}
    found = [*(_gate(result, gate) for gate in result.gates), *(_flag(result, flag) for flag in result.flags)]
    run = {
        "tool": {"driver": {"name": "auditkit", "version": tool_version(result), "rules": rules}},
        "invocations": [_invocation(result)],
        **({"artifacts": [_artifact(result)]} if is_file(result.model) else {}),
        "results": [{**item, "ruleIndex": index[item["ruleId"]]} for item in found],
        "properties": _about(result),
    }
    return json_text({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]})


def _rules(result: Result) -> Iterator[dict[str, Any]]:
    for check in result.checks:
        yield _rule(
            _check_id(check.key),
            check.title,
            check.why or check.title,
            {"id": check.id, "version": check.version, "distribution": check.distribution},
            check.references,
        )
    for metric in dict.fromkeys(gate.metric for gate in result.gates):
        key, name = split_metric(metric)
        judged = result.check(key)
        title = f"{metric_title(judged, name)} of {key}"
        why = judged.why if judged is not None and judged.why else title
        yield _rule(_gate_id(metric), title, why, {"check": key, "metric": name})
    for flag in {flag.id: flag for flag in result.flags}.values():
        yield _rule(_flag_id(flag.id), flag.id, flag.remedy or flag.text, {"check": flag.check})


def _rule(
    rule_id: str, title: str, why: str, properties: dict[str, Any], references: Iterable[str] = ()
) -> dict[str, Any]:
    return {
        "id": rule_id,
        "shortDescription": _message(title),
        "fullDescription": _message(why),
        "help": _message("\n".join([why, *references])),
        "properties": properties,
    }


def _gate(result: Result, gate: GateRecord) -> dict[str, Any]:
    key, name = split_metric(gate.metric)
    kind, level = _KIND_AND_LEVEL[gate.verdict]
    return {
        "ruleId": _gate_id(gate.metric),
        "kind": kind,
        "level": level,
        "message": _message(f"{metric_title(result.check(key), name)} ({gate_name(gate)}): {gate_sentence(gate)}"),
        "locations": [_location(result, gate.metric, "metric")],
        "partialFingerprints": _fingerprint("gate", gate.metric, gate.change or "", gate.bound, gate.threshold),
        **_suppressed(gate),
        "properties": {
            "metric": gate.metric,
            "bound": gate.bound,
            "threshold": gate.threshold,
            "level": gate.level,
            "verdict": gate.verdict.value,
            "measured": gate.measured.value,
            **({"estimate": _estimate(gate.estimate)} if gate.estimate is not None else {}),
        },
    }


def _suppressed(gate: GateRecord) -> dict[str, Any]:
    """Return the waiver as SARIF has it: who shows open findings then leaves this one out."""
    if gate.verdict is not Verdict.WAIVED or gate.waiver is None:
        return {}
    return {"suppressions": [{"kind": "external", "status": "accepted", "justification": gate.note or ""}]}


def _flag(result: Result, flag: FlagRecord) -> dict[str, Any]:
    return {
        "ruleId": _flag_id(flag.id),
        "kind": "fail",
        "level": "warning" if flag.doubts else "note",
        "message": _message(f"{flag.text} {flag.remedy}".strip()),
        "locations": [_location(result, flag.check, "check")],
        "partialFingerprints": _fingerprint("flag", flag.id, flag.check),
        "properties": {"check": flag.check, "doubts": list(flag.doubts), "remedy": flag.remedy},
    }


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return estimate.model_dump(mode="json")


def _location(result: Result, name: str, kind: str) -> dict[str, Any]:
    """Return where in the audit something was found, and the model's file; a line of it would be made up."""
    file = {"physicalLocation": {"artifactLocation": {"uri": _uri(result), "index": 0}}}
    return {
        **(file if is_file(result.model) else {}),
        "logicalLocations": [{"fullyQualifiedName": name, "kind": kind}],
    }


def _artifact(result: Result) -> dict[str, Any]:
    digest = file_digest(result.model)
    return {
        "location": {"uri": _uri(result)},
        "roles": ["analysisTarget"],
        **({"hashes": {"sha-256": digest}} if digest is not None else {}),
    }


def _uri(result: Result) -> str:
    return quote(result.model.name, errors="replace")


def _invocation(result: Result) -> dict[str, Any]:
    """Return how the run went: what was not tested, and what the preflight noticed."""
    left = [check for check in result.checks if check.status != "done"]
    began, command = started(result), result.volatile.get("command")
    return {
        "executionSuccessful": len(left) < len(result.checks) and all(check.status == "skipped" for check in left),
        **({"startTimeUtc": began} if began is not None else {}),
        **({"commandLine": command} if isinstance(command, str) else {}),
        "toolExecutionNotifications": [_not_tested(check) for check in left],
        "toolConfigurationNotifications": [
            {
                "descriptor": {"id": note.id},
                "level": _NOTIFICATION_LEVEL[note.level],
                "message": _message(f"{note.text} {note.remedy}".strip()),
            }
            for note in result.notes
        ],
    }


def _not_tested(check: CheckRecord) -> dict[str, Any]:
    reason = check.reason or "no reason was recorded"
    return {
        "associatedRule": {"id": _check_id(check.key)},
        "level": _NOTIFICATION_LEVEL[check.status],
        "message": _message(f"{check.key} {check.status}: {reason}"),
    }


def _about(result: Result) -> dict[str, Any]:
    return {
        "verdict": result.verdict.value,
        "model": {"name": result.model.name, "format": result.model.format, "digest": result.model.digest},
        "samples": {
            "source": result.samples.source,
            "n": result.samples.n,
            "fingerprint": result.samples.fingerprint,
        },
        "settings": result.settings,
        **({"disclaimer": result.disclaimer} if result.disclaimer else {}),
    }


def _check_id(key: str) -> str:
    return f"check/{key}"


def _gate_id(metric: str) -> str:
    return f"gate/{metric}"


def _flag_id(flag: str) -> str:
    return f"flag/{flag}"


def _fingerprint(*parts: str | float) -> dict[str, str]:
    """Return what makes two runs' results one finding: not the model's digest, or no finding outlives a retraining."""
    return {"auditkit/v1": unit_digest({"parts": parts})}


def _message(text: str) -> dict[str, str]:
    # Viewers make a link of [text](target), also in plain messages.
    return {"text": text.replace("](", "] (") or "-"}
