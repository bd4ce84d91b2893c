"""Robustness audits of image models: attacks, saliency, one report, one gate that doubts."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from auditkit.activations import (
        ActivationCalibration,
        ActivationStatistics,
        ActivationTotals,
        MagnitudeHistogram,
        Moments,
        calibrate_activations,
        profile_activations,
        tail_index,
    )
    from auditkit.artifacts import CLEAN_LOGITS, Artifact
    from auditkit.attack import ATTACK_CURVES, ATTACK_FLAGS, ATTACK_METRICS, CONTROL_METRIC, Attack, cascade
    from auditkit.auditing import AuditResult, audit, load_result
    from auditkit.budgets import Budgets, budget_text
    from auditkit.check import (
        OUTSIDE,
        Check,
        Conclusion,
        Curve,
        Exhibit,
        Findings,
        Finished,
        FlagRule,
        Learner,
        Lesson,
        Map,
        Metric,
        Panel,
        Profile,
        ProfileLine,
        Spec,
        Summarising,
        Table,
        Tally,
    )
    from auditkit.context import Context
    from auditkit.covers import QUICK_LOGITS, CoverSweep, Fill, Windows, cover_sweep, filling, pixel_map, zeiler_map
    from auditkit.errors import AuditError, ExecutionError, ExitCode, UsageError
    from auditkit.exhibits import difference_panel, heat_panel, image_panel, overlay_panel
    from auditkit.models.base import Capability, Differentiable, Model
    from auditkit.models.operations import watch_operations
    from auditkit.models.taps import ActivationSite, tap_activations
    from auditkit.origin import Origin
    from auditkit.queries import Expectation, Goal, Queries
    from auditkit.result import Result, Verdict
    from auditkit.saliency_map import saliency
    from auditkit.samples import Samples, open_dataset
    from auditkit.stats import Estimate
    from auditkit.stored import as_jpeg, from_16bit
    from auditkit.streams import Streams
    from auditkit.threat import Norm, ThreatModel

__all__ = [
    "ATTACK_CURVES",
    "ATTACK_FLAGS",
    "ATTACK_METRICS",
    "CLEAN_LOGITS",
    "CONTROL_METRIC",
    "OUTSIDE",
    "QUICK_LOGITS",
    "ActivationCalibration",
    "ActivationSite",
    "ActivationStatistics",
    "ActivationTotals",
    "Artifact",
    "Attack",
    "AuditError",
    "AuditResult",
    "Budgets",
    "Capability",
    "Check",
    "Conclusion",
    "Context",
    "CoverSweep",
    "Curve",
    "Differentiable",
    "Estimate",
    "ExecutionError",
    "Exhibit",
    "ExitCode",
    "Expectation",
    "Fill",
    "Findings",
    "Finished",
    "FlagRule",
    "Goal",
    "Learner",
    "Lesson",
    "MagnitudeHistogram",
    "Map",
    "Metric",
    "Model",
    "Moments",
    "Norm",
    "Origin",
    "Panel",
    "Profile",
    "ProfileLine",
    "Queries",
    "Result",
    "Samples",
    "Spec",
    "Streams",
    "Summarising",
    "Table",
    "Tally",
    "ThreatModel",
    "UsageError",
    "Verdict",
    "Windows",
    "as_jpeg",
    "audit",
    "budget_text",
    "calibrate_activations",
    "cascade",
    "cover_sweep",
    "difference_panel",
    "filling",
    "from_16bit",
    "heat_panel",
    "image_panel",
    "load_result",
    "open_dataset",
    "overlay_panel",
    "pixel_map",
    "profile_activations",
    "saliency",
    "tail_index",
    "tap_activations",
    "watch_operations",
    "zeiler_map",
]

# Names are imported when they are first used: `import auditkit` and `auditkit --help` load neither torch nor onnx.
_HOMES = {
    "activations": (
        "ActivationCalibration",
        "ActivationStatistics",
        "ActivationTotals",
        "MagnitudeHistogram",
        "Moments",
        "calibrate_activations",
        "profile_activations",
        "tail_index",
    ),
    "artifacts": ("CLEAN_LOGITS", "Artifact"),
    "attack": ("ATTACK_CURVES", "ATTACK_FLAGS", "ATTACK_METRICS", "CONTROL_METRIC", "Attack", "cascade"),
    "auditing": ("AuditResult", "audit", "load_result"),
    "budgets": ("Budgets", "budget_text"),
    "check": (
        "OUTSIDE",
        "Check",
        "Conclusion",
        "Curve",
        "Exhibit",
        "Findings",
        "Finished",
        "FlagRule",
        "Learner",
        "Lesson",
        "Map",
        "Metric",
        "Panel",
        "Profile",
        "ProfileLine",
        "Spec",
        "Summarising",
        "Table",
        "Tally",
    ),
    "context": ("Context",),
    "covers": (
        "QUICK_LOGITS",
        "CoverSweep",
        "Fill",
        "Windows",
        "cover_sweep",
        "filling",
        "pixel_map",
        "zeiler_map",
    ),
    "errors": ("AuditError", "ExecutionError", "ExitCode", "UsageError"),
    "exhibits": ("difference_panel", "heat_panel", "image_panel", "overlay_panel"),
    "models.base": ("Capability", "Differentiable", "Model"),
    "models.operations": ("watch_operations",),
    "models.taps": ("ActivationSite", "tap_activations"),
    "origin": ("Origin",),
    "queries": ("Expectation", "Goal", "Queries"),
    "result": ("Result", "Verdict"),
    "saliency_map": ("saliency",),
    "samples": ("Samples", "open_dataset"),
    "stats": ("Estimate",),
    "stored": ("as_jpeg", "from_16bit"),
    "streams": ("Streams",),
    "threat": ("Norm", "ThreatModel"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'auditkit' has no attribute {name!r}")
    return getattr(importlib.import_module(f"auditkit.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
