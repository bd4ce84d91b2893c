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
    from auditkit.artifacts import CLEAN_LOGITS, Artifact, Shelf
    from auditkit.attack import ATTACK_CURVES, ATTACK_FLAGS, ATTACK_METRICS, CONTROL_METRIC, Attack, cascade
    from auditkit.auditing import AuditResult, audit, load_result
    from auditkit.bounding import (
        activation_quantiles,
        bounded_copy,
        bounded_differentiable,
        bounded_model,
        train_bounds,
    )
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
        Grid,
        Learner,
        Lesson,
        Map,
        Mark,
        Metric,
        Panel,
        Profile,
        ProfileLine,
        Spec,
        Summarising,
        Table,
        Tally,
    )
    from auditkit.comparison import Comparison, MetricChange
    from auditkit.context import Context
    from auditkit.covers import QUICK_LOGITS, CoverSweep, Fill, Windows, cover_sweep, filling, pixel_map, zeiler_map
    from auditkit.detection import (
        STICKER_SCORES,
        Consistency,
        Evidence,
        StickerDetector,
        StickerRule,
        activity,
        fit_rule,
        gather_evidence,
        peeled_dissent,
    )
    from auditkit.detection.conformal import conformal_threshold
    from auditkit.errors import AuditError, ExecutionError, ExitCode, UsageError
    from auditkit.exhibits import difference_panel, heat_panel, image_panel, overlay_panel
    from auditkit.models.base import Capability, Differentiable, Model
    from auditkit.models.operations import watch_operations
    from auditkit.models.taps import ActivationSite, tap_activations
    from auditkit.objects.boxes import areas, overlaps
    from auditkit.objects.detections import Candidates, Detections
    from auditkit.objects.detector import Detector
    from auditkit.objects.judging import CLEAN_DETECTIONS, found_objects, match_objects, objects_of
    from auditkit.objects.marks import mark, marks_of
    from auditkit.origin import Origin
    from auditkit.precision import Matches
    from auditkit.queries import Expectation, Goal, Queries
    from auditkit.result import Result, Verdict
    from auditkit.rows import take_rows
    from auditkit.saliency_map import saliency
    from auditkit.samples import Objects, Samples, open_dataset
    from auditkit.stats import Estimate, exact_mcnemar, proportion
    from auditkit.stored import as_jpeg, from_16bit
    from auditkit.streams import Streams
    from auditkit.threat import Norm, ThreatModel

__all__ = [
    "ATTACK_CURVES",
    "ATTACK_FLAGS",
    "ATTACK_METRICS",
    "CLEAN_DETECTIONS",
    "CLEAN_LOGITS",
    "CONTROL_METRIC",
    "OUTSIDE",
    "QUICK_LOGITS",
    "STICKER_SCORES",
    "ActivationCalibration",
    "ActivationSite",
    "ActivationStatistics",
    "ActivationTotals",
    "Artifact",
    "Attack",
    "AuditError",
    "AuditResult",
    "Budgets",
    "Candidates",
    "Capability",
    "Check",
    "Comparison",
    "Conclusion",
    "Consistency",
    "Context",
    "CoverSweep",
    "Curve",
    "Detections",
    "Detector",
    "Differentiable",
    "Estimate",
    "Evidence",
    "ExecutionError",
    "Exhibit",
    "ExitCode",
    "Expectation",
    "Fill",
    "Findings",
    "Finished",
    "FlagRule",
    "Goal",
    "Grid",
    "Learner",
    "Lesson",
    "MagnitudeHistogram",
    "Map",
    "Mark",
    "Matches",
    "Metric",
    "MetricChange",
    "Model",
    "Moments",
    "Norm",
    "Objects",
    "Origin",
    "Panel",
    "Profile",
    "ProfileLine",
    "Queries",
    "Result",
    "Samples",
    "Shelf",
    "Spec",
    "StickerDetector",
    "StickerRule",
    "Streams",
    "Summarising",
    "Table",
    "Tally",
    "ThreatModel",
    "UsageError",
    "Verdict",
    "Windows",
    "activation_quantiles",
    "activity",
    "areas",
    "as_jpeg",
    "audit",
    "bounded_copy",
    "bounded_differentiable",
    "bounded_model",
    "budget_text",
    "calibrate_activations",
    "cascade",
    "conformal_threshold",
    "cover_sweep",
    "difference_panel",
    "exact_mcnemar",
    "filling",
    "fit_rule",
    "found_objects",
    "from_16bit",
    "gather_evidence",
    "heat_panel",
    "image_panel",
    "load_result",
    "mark",
    "marks_of",
    "match_objects",
    "objects_of",
    "open_dataset",
    "overlaps",
    "overlay_panel",
    "peeled_dissent",
    "pixel_map",
    "profile_activations",
    "proportion",
    "saliency",
    "tail_index",
    "take_rows",
    "tap_activations",
    "train_bounds",
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
    "artifacts": ("CLEAN_LOGITS", "Artifact", "Shelf"),
    "attack": ("ATTACK_CURVES", "ATTACK_FLAGS", "ATTACK_METRICS", "CONTROL_METRIC", "Attack", "cascade"),
    "auditing": ("AuditResult", "audit", "load_result"),
    "bounding": (
        "activation_quantiles",
        "bounded_copy",
        "bounded_differentiable",
        "bounded_model",
        "train_bounds",
    ),
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
        "Grid",
        "Learner",
        "Lesson",
        "Map",
        "Mark",
        "Metric",
        "Panel",
        "Profile",
        "ProfileLine",
        "Spec",
        "Summarising",
        "Table",
        "Tally",
    ),
    "comparison": ("Comparison", "MetricChange"),
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
    "detection": (
        "STICKER_SCORES",
        "Consistency",
        "Evidence",
        "StickerDetector",
        "StickerRule",
        "activity",
        "fit_rule",
        "gather_evidence",
        "peeled_dissent",
    ),
    "detection.conformal": ("conformal_threshold",),
    "errors": ("AuditError", "ExecutionError", "ExitCode", "UsageError"),
    "exhibits": ("difference_panel", "heat_panel", "image_panel", "overlay_panel"),
    "models.base": ("Capability", "Differentiable", "Model"),
    "models.operations": ("watch_operations",),
    "models.taps": ("ActivationSite", "tap_activations"),
    "objects.boxes": ("areas", "overlaps"),
    "objects.detections": ("Candidates", "Detections"),
    "objects.detector": ("Detector",),
    "objects.judging": ("CLEAN_DETECTIONS", "found_objects", "match_objects", "objects_of"),
    "objects.marks": ("mark", "marks_of"),
    "origin": ("Origin",),
    "precision": ("Matches",),
    "queries": ("Expectation", "Goal", "Queries"),
    "result": ("Result", "Verdict"),
    "rows": ("take_rows",),
    "saliency_map": ("saliency",),
    "samples": ("Objects", "Samples", "open_dataset"),
    "stats": ("Estimate", "exact_mcnemar", "proportion"),
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
