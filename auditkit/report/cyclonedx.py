"""The result as a CycloneDX 1.6 bill of materials: the model, its digest, and every metric in its model card."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from typing import Any

from auditkit.report.facts import file_digest, json_text, started, tool_version
from auditkit.report.tasks import task_words
from auditkit.report.text import gate_name, split_metric, verdict_sentence
from auditkit.result import Result
from auditkit.stats import Estimate

__all__ = ["cyclonedx_bom"]

_SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_SAMPLING = "Intervals cover sampling error only."


def cyclonedx_bom(result: Result) -> str:
    """Return the result as a CycloneDX 1.6 ML-BOM; the same result always gives the same text."""
    began = started(result)
    bom = {
        "$schema": _SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{_serial(result)}",
        "version": 1,
        "metadata": {
            **({"timestamp": began} if began is not None else {}),
            "tools": {"components": [{"type": "application", "name": "auditkit", "version": tool_version(result)}]},
        },
        "components": [_model(result)],
    }
    return json_text(bom)


def _serial(result: Result) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_OID, hashlib.sha256(result.to_json().encode()).hexdigest())


def _model(result: Result) -> dict[str, Any]:
    digest = file_digest(result.model)
    return {
        "bom-ref": "model",
        "type": "machine-learning-model",
        "name": result.model.name,
        **({"hashes": [{"alg": "SHA-256", "content": digest}]} if digest is not None else {}),
        "modelCard": {
            "modelParameters": {
                "task": task_words(result).hub_task,
                "datasets": [_samples(result)],
                "inputs": [{"format": result.model.input}],
            },
            "quantitativeAnalysis": {"performanceMetrics": list(_metrics(result))},
            "considerations": {"technicalLimitations": list(_limitations(result))},
        },
        "properties": [_property(name, value) for name, value in _facts(result)],
    }


def _samples(result: Result) -> dict[str, Any]:
    samples = result.samples
    return {
        "type": "dataset",
        "name": samples.source,
        "description": f"The {samples.n} labelled images that the model was audited on; not what it was trained on.",
        "contents": {"properties": [_property("auditkit:samples:fingerprint", samples.fingerprint)]},
    }


def _metrics(result: Result) -> Iterator[dict[str, Any]]:
    for check in result.checks:
        if check.status == "done":
            for metric, estimate in check.metrics.items():
                name, _, budget = metric.partition("@")
                yield _metric(name, f"{check.key}, {budget}" if budget else check.key, estimate)


def _metric(name: str, part: str, estimate: Estimate) -> dict[str, Any]:
    return {
        "type": name,
        "value": str(estimate.value),
        "slice": part,
        "confidenceInterval": {"lowerBound": str(estimate.low), "upperBound": str(estimate.high)},
    }


def _limitations(result: Result) -> Iterator[str]:
    if result.disclaimer:
        yield result.disclaimer
    yield from (f"{task_words(result).bound}.", _SAMPLING)
    for flag in result.flags:
        yield f"{flag.check} raised {flag.id}: {flag.text}"
    for check in result.checks:
        if check.status != "done":
            yield f"Not tested: {check.key} {check.status} ({check.reason or 'no reason was recorded'})."


def _facts(result: Result) -> Iterator[tuple[str, str]]:
    yield "auditkit:model:format", result.model.format
    yield "auditkit:model:digest", result.model.digest
    yield "auditkit:verdict", result.verdict.value
    yield "auditkit:outcome", verdict_sentence(result)
    yield "auditkit:seed", str(result.settings.get("seed", "not recorded"))
    for gate in result.gates:
        yield f"auditkit:gate:{split_metric(gate.metric)[0]}", f"{gate.verdict.value}: {gate_name(gate)}"


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": name, "value": value}
