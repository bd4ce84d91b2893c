"""Runs a check on a model and samples, without an audit around it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from auditkit.artifacts import Shelf
from auditkit.check import Check, Findings, Learner, Lesson
from auditkit.context import Context
from auditkit.contract import check_findings
from auditkit.models.base import Model
from auditkit.objects.detector import Detector
from auditkit.samples import Samples

__all__ = ["run_check", "run_learn"]

_BATCH = 32


def run_check(check: Check, model: Model | Detector, samples: Samples, **context: Any) -> Findings:
    """Run a check on samples and hold its findings to the contract.

    `context` sets fields of the `Context`; the defaults are the check's id as key, seed 0, batch 32, and the model's
    own float32 copy to search with. A check that learns is given its `lesson` (see `run_learn`), one that reads others
    what they `finished`, by key, and one with the scope `outside` samples for `calibration`.

    Raises:
        ExecutionError: the findings break the contract, or the check itself raised one.
    """
    model, ctx = _context(check, model, samples, context)
    findings = check.run(model, samples, ctx)
    check_findings(check.spec, findings, len(samples))
    return findings


def run_learn(check: Learner, model: Model | Detector, samples: Samples, **context: Any) -> Lesson:
    """Let a check that learns do so from samples; `context` is that of `run_check`."""
    model, ctx = _context(check, model, samples, context)
    return check.learn(model, samples, ctx)


def _context(
    check: Check, model: Model | Detector, samples: Samples, chosen: Mapping[str, Any]
) -> tuple[Model | Detector, Context]:
    values: dict[str, Any] = {
        "key": check.spec.id,
        "seed": 0,
        "batch": _BATCH,
        "search": model.exact,
        "started": time.monotonic(),
        **chosen,
    }
    model = model.in_batches_of(values["batch"])
    if values["search"] is not None:
        values["search"] = replace(values["search"], batch=values["batch"])
    if "calibration" in values:
        values["calibration"] = Shelf(model, values["calibration"])
    return model, Context(shelf=Shelf(model, samples), **values)
