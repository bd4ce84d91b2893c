"""The result as an in-toto statement: which requirements this model passed, ready to be signed by other tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from auditkit.errors import ExitCode
from auditkit.gate import exit_code
from auditkit.report.facts import file_digest, json_text
from auditkit.report.text import gate_name
from auditkit.result import Result, Verdict
from auditkit.store import unit_digest

__all__ = ["EVIDENCE", "PREDICATE", "STATEMENT", "in_toto_statement", "model_subject", "samples_descriptor"]

STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://in-toto.io/attestation/test-result/v0.1"
EVIDENCE = ("result.json", "samples.npz", "exhibits.npz", "matches.npz")
"""The files of a stored audit that others are made from, and that nothing can be made again from."""
_OUTCOMES = {
    Verdict.PASS: "passedTests",
    Verdict.INCONCLUSIVE: "warnedTests",
    Verdict.WARN: "warnedTests",
    Verdict.WAIVED: "warnedTests",
}


def in_toto_statement(result: Result, evidence: Mapping[str, str] | None = None) -> str:
    """Return the result as an unsigned in-toto statement with a test-result predicate (v0.1).

    `evidence` has the sha256 (hex) of the files of the stored audit, by name; with the model they are the subjects.
    """
    tests: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    for gate in result.gates:
        tests[_OUTCOMES.get(gate.verdict, "failedTests")].append(gate_name(gate))
    tests["failedTests"] += [check.key for check in result.checks if check.status == "failed"]
    configuration = [_audit(result), samples_descriptor(result)]
    files = [{"name": name, "digest": {"sha256": digest}} for name, digest in (evidence or {}).items()]
    return json_text(
        {
            "_type": STATEMENT,
            "subject": [model_subject(result), *files],
            "predicateType": PREDICATE,
            "predicate": {"result": _outcome(result), "configuration": configuration, **tests},
        }
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


def model_subject(result: Result) -> dict[str, Any]:
    """Return name and digest of the model: `sha256` of its file, or `auditkitNetwork` where it came from none."""
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


def samples_descriptor(result: Result) -> dict[str, Any]:
    """Return where the images came from, and their fingerprint."""
    return {
        "name": result.samples.source,
        "digest": {"auditkitSamples": result.samples.fingerprint},
        "annotations": {"n": result.samples.n},
    }
