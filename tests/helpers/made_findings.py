"""A spec with metrics of all kinds, and columns that keep to it, of four samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from auditkit.check import Curve, FlagRule, Map, Metric, Spec

SPEC = Spec(
    id="made.up",
    title="t",
    why="w",
    metrics=(
        Metric("clean_accuracy", "clean", "Clean"),
        Metric("robust_accuracy", "robust", "Robust"),
        Metric("success", "fooled", "Fooled, of the correct", among="clean"),
        Metric("distance", "distance", "Distance", "mean", among="fooled"),
        Metric("median_distance", "distance", "Median distance", "median", among="fooled"),
    ),
    curves=(Curve("robust_accuracy", "Robust accuracy", "budget"),),
    flags=(
        FlagRule("made.weak", "success", above=0.5, text="weak", remedy="train"),
        FlagRule("made.gone", "absent", above=0.0, text="never", remedy="none"),
    ),
)
FOOLED = np.array([True, False, True, False])


def columns(**changed):
    plain = {
        "clean": np.array([True, True, True, False]),
        "robust": np.array([False, True, False, False]),
        "fooled": FOOLED,
        "distance": np.array([0.5, np.nan, 0.7, np.nan]),
        "extra": np.arange(4),
    }
    return {name: column for name, column in {**plain, **changed}.items() if column is not None}


MAPPED = replace(SPEC, maps=(Map("Where it lies", "row", "column"),))
GROUPS = replace(
    SPEC,
    metrics=(
        Metric("auroc", "ood_score", "AUROC", "auroc", against="score"),
        Metric("tpr", "ood_score", "TPR", "tpr", against="score", at=0.2),
        Metric("fpr", "ood_score", "FPR", "fpr", against="score", at=0.8),
        Metric("ood_mean", "ood_score", "Mean", "mean", among="ood_seen"),
        Metric("mean", "score", "Mean", "mean", among="seen"),
    ),
    curves=(
        Curve("auroc", "ROC", "false alarms", column="ood_score", against="score", figure="both", line="one"),
        Curve("ood_mean", "Beyond", "score", column="ood_score", among="ood_seen"),
    ),
    flags=(),
)
OWN = {"score": np.array([0.1, np.nan, 0.5, -np.inf, 0.2]), "seen": np.array([True, False, True, False, True])}
OTHER = {"ood_score": np.array([0.4, 0.6, np.nan]), "ood_seen": np.array([True, True, False])}
