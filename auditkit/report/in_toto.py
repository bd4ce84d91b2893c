"""The result as an in-toto statement: which requirements this model passed, ready to be signed by other tools."""

from __future__ import annotations

from typing import Any

from auditkit.errors import ExitCode
from auditkit.gate import exit_code
from auditkit.report.facts import file_digest, json_text
from auditkit.report.text import gate_name
from auditkit.result import Result, Verdict
from auditkit.store import unit_digest

__all__ = ["in_toto_statement"]

_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
_OUTCOMES = {
    Verdict.PASS: "passedTests",
    Verdict.INCONCLUSIVE: "warnedTests",
    Verdict.WARN: "warnedTests",
    Verdict.WAIVED: "warnedTests",
}


def in_toto_statement(result: Result) -> str:
    """Return the result as an unsigned in-toto statement with a test-result predicate (v0.1)."""
    tests: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    for gate in result.gates:
        tests[_OUTCOMES.get(gate.verdict, "failedTests")].append(gate_name(gate))
    tests["failedTests"] += [check.key for check in result.checks if check.status == "failed"]
    predicate = {"result": _outcome(result), "configuration": [_audit(result), _samples(result)], **tests}
    return json_text(
        {"_type": _STATEMENT, "subject": [_subject(result)], "predicateType": _PREDICATE, "predicate": predicate}
    )


def _outcome(result: Result) -> str:
    """Return PASSED where requirements were set and all are met; warnings, waivers, doubt, nothing required warn."""
    match exit_code(result):
        case ExitCode.PASS:
            return "PASSED" if result.verdict is Verdict.PASS else "WARNED"
        case ExitCode.INCONCLUSIVE:
            return "WARNED"
        case _:
            return "FAILED"


def _subject(result: Result) -> dict[str, Any]:
    # Only a file has bytes that others can hash; the digest of a network in memory must not be taken for that of one.
    digest = file_digest(result.model)
    return {
        "name": result.model.name,
        "digest": {"sha256": digest} if digest is not None else {"auditkitNetwork": result.model.digest},
    }


def _audit(result: Result) -> dict[str, Any]:
    configuration = {
        "settings": result.settings,
        "checks": {check.key: {"version": check.version, "options": check.options} for check in result.checks},
        "gates": [gate_name(gate) for gate in result.gates],
    }
    return {
        "name": "auditkit",
        "digest": {"sha256": unit_digest(configuration)},
        "annotations": {"settings": result.settings},
    }


def _samples(result: Result) -> dict[str, Any]:
    return {
        "name": result.samples.source,
        "digest": {"auditkitSamples": result.samples.fingerprint},
        "annotations": {"n": result.samples.n},
    }
