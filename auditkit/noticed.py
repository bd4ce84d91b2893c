"""What is notable about a workbench before any check runs: of a classifier, or of a detector."""

from __future__ import annotations

from auditkit.objects.detector import Detector
from auditkit.preflight import preflight, preflight_detector
from auditkit.result import NoteRecord
from auditkit.workbench import Workbench

__all__ = ["noticed"]


def noticed(bench: Workbench) -> tuple[NoteRecord, ...]:
    """Return notes about the model and the first shard of its images, warnings first."""
    first = bench.read(*bench.shards[0]).samples
    if isinstance(bench.model, Detector):
        return preflight_detector(bench.loaded, bench.steps, bench.model, first)
    return preflight(
        bench.loaded,
        bench.steps,
        bench.model,
        first,
        class_names=bench.class_names,
        label_offset=bench.recipe.settings.label_offset,
    )
