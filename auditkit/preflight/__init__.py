"""Detects usual mistakes in putting a model and images together, and names the option that remedies each."""

from __future__ import annotations

from auditkit.preflight.detector import check_classes, preflight_detector
from auditkit.preflight.diagnosis import Diagnosis, Remedy
from auditkit.preflight.failure import explain_failure
from auditkit.preflight.labels import check_labels
from auditkit.preflight.run import diagnose, preflight

__all__ = [
    "Diagnosis",
    "Remedy",
    "check_classes",
    "check_labels",
    "diagnose",
    "explain_failure",
    "preflight",
    "preflight_detector",
]
