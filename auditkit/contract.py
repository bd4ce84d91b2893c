"""Holds what a check returns for a shard to the contract: what its spec needs is there, and is finite."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from auditkit.check import Findings, Metric, Spec
from auditkit.columns import AllMatches, Columns, among_of, columns_of, table_of, whole_of
from auditkit.errors import ExecutionError
from auditkit.precision import check_matches

__all__ = ["check_findings"]


def check_findings(spec: Spec, findings: Findings, n: int) -> None:
    """Hold the findings of one shard to the contract.

    Raises:
        ExecutionError: a column is missing, has another length or type, or holds numbers that are not finite; or the
            same holds for counted passes, or for the score of an exhibit.
    """
    for name in ("forwards", "backwards"):
        _check_passes(spec, name, getattr(findings, name), n)
    _check_attacked(spec, findings)
    for exhibit in findings.exhibits:
        if not math.isfinite(exhibit.score):
            raise ExecutionError(f"{spec.id} returned an exhibit of {exhibit.sample} with score {exhibit.score}")
        if any(not isinstance(p.array, np.ndarray) or p.array.dtype.kind not in "biuf" for p in exhibit.panels):
            raise ExecutionError(f"{spec.id} returned an exhibit of {exhibit.sample} with a panel that is no array")
    for name, column in findings.columns.items():
        if not isinstance(column, np.ndarray) or column.shape != (n,):
            got = getattr(column, "shape", type(column).__name__)
            raise ExecutionError(f"{spec.id} returned column {name} of shape {got}; wanted ({n},), a value a sample")
        if column.dtype.kind not in "biuf":
            raise ExecutionError(f"{spec.id} returned column {name} of type {column.dtype}; wanted bool, int or float")
    _check_beyond_samples(spec, findings)
    for name, matches in findings.matches.items():
        if (problem := check_matches(matches, n)) is not None:
            raise ExecutionError(f"{spec.id} returned matches {name} that are none: {problem}")
    for metric in spec.metrics:
        if metric.kind == "precision":
            _check_precision(spec, metric, findings.matches)
            continue
        if metric.kind == "ratio":
            _check_ratio(spec, metric, findings.columns)
            continue
        if metric.against is not None:
            _check_named(spec, f"metric {metric.name}", (metric.column, metric.against), findings)
            continue
        table = table_of(metric.column, findings.columns, findings.others)
        named = columns_of(metric, table)
        if not named:
            raise ExecutionError(f"{spec.id} returned no column {metric.column}, which its metric {metric.name} needs")
        for suffix, column in named:
            _check_values(spec, metric, suffix, column, table)
    for place in spec.maps:
        for name in (place.row, place.column):
            if name not in findings.columns:
                raise ExecutionError(f"{spec.id} returned no column {name}, which its map {place.title!r} needs")
    for curve in spec.curves:
        what = f"curve of {curve.metric}"
        _check_named(spec, what, filter(None, (curve.column, curve.against)), findings)
        if curve.column is not None and curve.among is not None:
            table = table_of(curve.column, findings.columns, findings.others)
            _check_named(spec, what, [curve.among], Findings(table))


def _check_precision(spec: Spec, metric: Metric, matches: AllMatches) -> None:
    for name in filter(None, (metric.column, metric.against)):
        if not any(known == name or known.startswith(f"{name}@") for known in matches):
            raise ExecutionError(f"{spec.id} returned no matches {name}, which its metric {metric.name} needs")


def _check_ratio(spec: Spec, metric: Metric, columns: Columns) -> None:
    named = columns_of(metric, columns)
    if not named:
        raise ExecutionError(f"{spec.id} returned no column {metric.column}, which its metric {metric.name} needs")
    for suffix, part in named:
        whole = whole_of(metric, suffix, columns)
        if whole is None:
            raise ExecutionError(f"{spec.id} returned no column {metric.against}, which its metric {metric.name} needs")
        if not (np.isfinite(part).all() and np.isfinite(whole).all() and (part >= 0).all() and (part <= whole).all()):
            raise ExecutionError(
                f"{spec.id} returned column {metric.column}{suffix} that is no part of {metric.against}: wanted "
                "0 <= part <= whole for every image"
            )


def _check_beyond_samples(spec: Spec, findings: Findings) -> None:
    for name, values in findings.others.items():
        if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "biuf":
            raise ExecutionError(f"{spec.id} returned numbers {name} about other images that are not (M,)")
        if name in findings.columns:
            raise ExecutionError(f"{spec.id} returned {name} about the samples and about other images")
    for name, tally in findings.tallies.items():
        if not isinstance(tally.array, np.ndarray) or tally.array.dtype.kind not in "iuf":
            raise ExecutionError(f"{spec.id} returned a tally {name} that is no array of numbers")
        if np.isnan(tally.array).any():
            raise ExecutionError(f"{spec.id} returned NaN in tally {name}")


def _check_named(spec: Spec, what: str, names: Iterable[str], findings: Findings) -> None:
    for name in names:
        if name not in findings.columns and name not in findings.others:
            raise ExecutionError(f"{spec.id} returned no column {name}, which its {what} needs")


def _check_attacked(spec: Spec, findings: Findings) -> None:
    images = findings.attacked
    if images is None:
        return
    found = findings.columns.get("found")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint16 or images.ndim != 4:
        raise ExecutionError(f"{spec.id} returned attacked images that are not uint16 (F, C, H, W)")
    if not isinstance(found, np.ndarray) or found.dtype.kind != "b" or int(found.sum()) != len(images):
        raise ExecutionError(f"{spec.id} returned {len(images)} attacked images; wanted one for each true `found`")


def _check_passes(spec: Spec, name: str, passes: object, n: int) -> None:
    if passes is None:
        return
    if not isinstance(passes, np.ndarray) or passes.shape != (n,) or passes.dtype.kind not in "iu":
        raise ExecutionError(f"{spec.id} returned {name} that are not ({n},) integers, a count a sample")


def _check_values(spec: Spec, metric: Metric, suffix: str, column: npt.NDArray[Any], columns: Columns) -> None:
    if metric.kind == "proportion" and column.dtype.kind != "b":
        raise ExecutionError(f"{spec.id} returned column {metric.column}{suffix} of {column.dtype}; a share needs bool")
    among = among_of(metric, suffix, columns)
    if among is None and metric.among is not None:
        raise ExecutionError(f"{spec.id} returned no column {metric.among}, which its metric {metric.name} needs")
    counted = column[among] if among is not None else column
    if not np.isfinite(counted).all():
        raise ExecutionError(f"{spec.id} returned NaN or infinity in column {metric.column}{suffix}")
