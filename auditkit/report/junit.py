"""The result as JUnit XML: one suite a check, one case a gate."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence

from auditkit.report.text import clean, estimate_text, gate_name, gate_sentence, split_metric
from auditkit.result import CheckRecord, GateRecord, Result, Verdict

__all__ = ["junit_xml"]


def junit_xml(result: Result) -> str:
    """Return the result as JUnit XML; a doubtful requirement is a failure, one without evidence an error."""
    suites = [_suite(result, key, result.check(key), gates) for key, gates in _by_check(result)]
    root = ET.Element("testsuites", name=clean(f"auditkit: {result.model.name}"))
    _count(root, suites)
    root.extend(suites)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _by_check(result: Result) -> Iterator[tuple[str, list[GateRecord]]]:
    gates: dict[str, list[GateRecord]] = {check.key: [] for check in result.checks}
    for gate in result.gates:
        gates.setdefault(split_metric(gate.metric)[0], []).append(gate)
    yield from gates.items()


def _suite(result: Result, key: str, check: CheckRecord | None, gates: Sequence[GateRecord]) -> ET.Element:
    suite = ET.Element("testsuite", name=clean(key))
    properties = ET.SubElement(suite, "properties")
    for name, value in _facts(result, check):
        ET.SubElement(properties, "property", name=name, value=clean(value))
    seconds = check.seconds if check is not None else 0.0
    cases = [_gate_case(key, gate) for gate in gates] or [_status_case(key, check)]
    cases[0].set("time", f"{seconds:.3f}")
    suite.extend(cases)
    suite.set("tests", str(len(cases)))
    for kind, plural in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(plural, str(sum(case.find(kind) is not None for case in cases)))
    suite.set("time", f"{seconds:.3f}")
    return suite


def _facts(result: Result, check: CheckRecord | None) -> Iterator[tuple[str, str]]:
    yield "model", result.model.name
    yield "model.digest", result.model.digest
    yield "samples.n", str(result.samples.n)
    yield "samples.fingerprint", result.samples.fingerprint
    yield "seed", str(result.settings.get("seed", "not recorded"))
    for name, estimate in check.metrics.items() if check is not None else ():
        yield f"metric.{clean(name)}", estimate_text(estimate)


def _gate_case(key: str, gate: GateRecord) -> ET.Element:
    case = _case(key, split_metric(gate_name(gate))[1])
    match gate.verdict:
        case Verdict.FAIL | Verdict.INCONCLUSIVE:
            _outcome(case, "failure", gate_sentence(gate), kind=gate.verdict.value)
        case Verdict.MISSING | Verdict.NONE:
            _outcome(case, "error", gate_sentence(gate), kind="missing")
        case Verdict.WARN | Verdict.WAIVED:
            # JUnit knows no warning; skipped is what neither passes nor fails a build.
            ET.SubElement(case, "skipped", message=clean(f"{gate.verdict.value}: {gate_sentence(gate)}"))
        case Verdict.PASS:
            ET.SubElement(case, "system-out").text = clean(gate_sentence(gate))
    return case


def _status_case(key: str, check: CheckRecord | None) -> ET.Element:
    status = check.status if check is not None else "failed"
    reason = (check.reason if check is not None else None) or "no reason was recorded"
    case = _case(key, "evaluated, without a requirement" if status == "done" else "evaluated")
    if status == "failed":
        _outcome(case, "error", reason, kind="failed")
    elif status == "skipped":
        ET.SubElement(case, "skipped", message=clean(reason))
    return case


def _case(key: str, name: str) -> ET.Element:
    return ET.Element("testcase", classname=clean(f"auditkit.{key}"), name=clean(name), time="0.000")


def _outcome(case: ET.Element, tag: str, text: str, *, kind: str) -> None:
    ET.SubElement(case, tag, type=kind, message=clean(text)).text = clean(text)


def _count(root: ET.Element, suites: Sequence[ET.Element]) -> None:
    # The schema of Jenkins knows no `skipped` here.
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in suites)))
    root.set("time", f"{sum(float(suite.get('time', '0')) for suite in suites):.3f}")
