"""Reduces columns to metrics, curves, maps and flags: no plugin does statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from auditkit.budgets import parse_budget
from auditkit.check import Curve, Exhibit, Metric, Panel, Spec
from auditkit.columns import NO_MATCHES, NOTHING, AllMatches, Columns, among_of, columns_of, table_of, whole_of
from auditkit.precision import average_precision, precision_drop
from auditkit.result import ColumnRecord, CurveRecord, FlagRecord, PointRecord
from auditkit.separation import auroc, fpr_at_tpr, roc, tpr_at_fpr
from auditkit.stats import Estimate, mean, median, proportion, ratio

__all__ = ["Share", "curves", "flags", "maps", "metric_columns", "metrics"]

Found = TypeVar("Found")
Share = Callable[[int, int], Estimate]
"""How a share is estimated from the images that count and all images."""
# A curve over a column has this many points between the smallest and the largest value, and x to so many digits.
_CURVE_POINTS = 24
_CURVE_DIGITS = 3


def metrics(
    spec: Spec,
    columns: Columns,
    others: Columns = NOTHING,
    share: Share = proportion,
    matches: AllMatches = NO_MATCHES,
) -> tuple[dict[str, Estimate], dict[str, str]]:
    """Return the estimates and their titles, by name; a metric that no sample counts for is left out.

    The plain name of a metric whose columns all carry a budget stands for the largest budget.
    """
    estimates: dict[str, Estimate] = {}
    titles: dict[str, str] = {}
    n = len(next(iter(columns.values()), ()))
    for metric in spec.metrics:
        if metric.kind in ("precision", "ratio"):
            for name, estimate in _of_objects(metric, columns, matches, n):
                estimates[name], titles[name] = estimate, metric.title
            continue
        if metric.against is not None:
            noticed, not_noticed = _group(metric.column, columns, others), _group(metric.against, columns, others)
            if noticed.size and not_noticed.size:
                estimates[metric.name] = _compare(metric, noticed, not_noticed)
                titles[metric.name] = metric.title
            continue
        table = table_of(metric.column, columns, others)
        for name, suffix, column in _named(metric, table):
            among = among_of(metric, suffix, table)
            counted = column[among] if among is not None else column
            if counted.size:
                estimates[name] = _estimate(metric, counted, share)
                titles[name] = metric.title
    return estimates, titles


def _of_objects(metric: Metric, columns: Columns, matches: AllMatches, n: int) -> Iterator[tuple[str, Estimate]]:
    """Yield the estimates of a metric about objects by name; none where there are no objects."""
    if metric.kind == "ratio":
        for name, suffix, part in _named(metric, columns):
            whole = whole_of(metric, suffix, columns)
            if whole is not None and whole.sum() > 0:
                yield name, ratio(part, whole)
        return
    for name, suffix, after in _named(metric, matches):
        if metric.against is None:
            estimate = average_precision(after, n, metric.at)
        else:
            before = matches.get(metric.against + suffix, matches.get(metric.against))
            estimate = precision_drop(before, after, n, metric.at) if before is not None else None
        if estimate is not None:
            yield name, estimate


def metric_columns(spec: Spec, columns: Columns, others: Columns = NOTHING) -> dict[str, ColumnRecord]:
    """Return for each metric that has a value a sample where these values lie, by name."""
    found: dict[str, ColumnRecord] = {}
    for metric in spec.metrics:
        if metric.against is not None or metric.column in others or metric.kind not in ("proportion", "mean", "median"):
            continue
        kind: Any = "share" if metric.kind == "proportion" else metric.kind
        for name, suffix, _ in _named(metric, columns):
            among = metric.among
            if among is not None and among + suffix in columns:
                among += suffix
            found[name] = ColumnRecord(column=metric.column + suffix, among=among, kind=kind)
    return found


def _named(metric: Metric, columns: Mapping[str, Found]) -> Iterator[tuple[str, str, Found]]:
    """Yield the metric's name with the budget of each column (or matches), that budget, and the column."""
    found = columns_of(metric, columns)
    if found and all(suffix for suffix, _ in found):
        largest, column = max(found, key=lambda item: parse_budget(item[0][1:]))
        yield metric.name, largest, column
    for suffix, column in found:
        yield metric.name + suffix, suffix, column


def _estimate(metric: Metric, values: npt.NDArray[Any], share: Share) -> Estimate:
    match metric.kind:
        case "mean":
            return mean(values)
        case "median":
            return median(values)
        case _:
            return share(int(values.sum()), int(values.size))


def _group(name: str, columns: Columns, others: Columns) -> npt.NDArray[np.float64]:
    values = table_of(name, columns, others)[name].astype(np.float64)
    return values[~np.isnan(values)]


def _compare(metric: Metric, noticed: npt.NDArray[np.float64], not_noticed: npt.NDArray[np.float64]) -> Estimate:
    if metric.at is None:
        return auroc(noticed, not_noticed)
    return (tpr_at_fpr if metric.kind == "tpr" else fpr_at_tpr)(noticed, not_noticed, metric.at)


def curves(
    spec: Spec,
    estimates: Mapping[str, Estimate],
    columns: Columns = NOTHING,
    others: Columns = NOTHING,
    share: Share = proportion,
) -> tuple[CurveRecord, ...]:
    """Return the curves that the spec asks for: over all budgets that were measured, over a column's values, or ROC.

    At zero a curve over budgets has the metric of the images as they are.
    """
    return tuple(
        CurveRecord(
            metric=curve.metric,
            title=curve.title,
            x_label=curve.x_label,
            y_label=curve.metric.replace("_", " "),
            points=tuple(_points(curve, estimates, columns, others, share)),
            roc=curve.against is not None,
            figure=curve.figure,
            line=curve.line,
        )
        for curve in spec.curves
    )


def _points(
    curve: Curve, estimates: Mapping[str, Estimate], columns: Columns, others: Columns, share: Share
) -> list[PointRecord]:
    if curve.column is None:
        return _over_budgets(curve, estimates)
    if curve.against is None:
        return _over_column(curve, table_of(curve.column, columns, others), share)
    noticed, not_noticed = (_group(name, columns, others) for name in (curve.column, curve.against))
    if not noticed.size or not not_noticed.size:
        return []
    found = roc(noticed, not_noticed)
    return [PointRecord(x=false, label=f"{100 * false:.3g} %", estimate=estimate) for false, estimate in found]


def _over_budgets(curve: Curve, estimates: Mapping[str, Estimate]) -> list[PointRecord]:
    prefix = curve.metric + "@"
    points = [
        PointRecord(x=parse_budget(name[len(prefix) :]), label=name[len(prefix) :], estimate=estimate)
        for name, estimate in estimates.items()
        if name.startswith(prefix)
    ]
    if curve.unattacked in estimates:
        points.append(PointRecord(x=0.0, label="0", estimate=estimates[curve.unattacked]))
    return sorted(points, key=lambda point: point.x)


def _over_column(curve: Curve, columns: Columns, share: Share) -> list[PointRecord]:
    """Return the share that lies beyond zero, and beyond values evenly spread over the ranks of the column."""
    assert curve.column is not None  # noqa: S101 (the caller looked)
    values = columns[curve.column].astype(np.float64)
    counted = columns[curve.among].astype(bool) if curve.among is not None else np.ones(len(values), dtype=bool)
    values = np.where(np.isnan(values), np.inf, values)[counted]
    finite = np.sort(values[np.isfinite(values)])
    ranks = np.unique(np.linspace(0, max(len(finite) - 1, 0), _CURVE_POINTS).round().astype(int))[: len(finite)]
    labels = [f"{value:.{_CURVE_DIGITS}g}" for value in finite[ranks]]
    places = sorted({0.0: "0", **{float(label): label for label in labels}}.items())
    return [PointRecord(x=x, label=label, estimate=share(int((values > x).sum()), len(counted))) for x, label in places]


def maps(spec: Spec, columns: Columns, height: int, width: int) -> list[Exhibit]:
    """Return a picture for each map of the spec: at each pixel, how many samples name it; none where no sample does."""
    pictures = []
    for place in spec.maps:
        rows, across = columns[place.row], columns[place.column]
        named = (rows >= 0) & (rows < height) & (across >= 0) & (across < width)
        counts = np.zeros((height, width), dtype=np.float32)
        np.add.at(counts, (rows[named].astype(np.int64), across[named].astype(np.int64)), 1)
        if named.any():
            panel = Panel(f"{int(counts.max())} at most in one place", "heat", counts)
            pictures.append(Exhibit("all images", f"{place.title} ({int(named.sum())} images)", 0.0, (panel,)))
    return pictures


def flags(
    spec: Spec,
    key: str,
    estimates: Mapping[str, Estimate],
    by_class: Mapping[str, Mapping[str, Estimate]] = MappingProxyType({}),
) -> tuple[FlagRecord, ...]:
    """Return the flags whose rule is met; `by_class` holds estimates by the names of classes."""
    raised = []
    for rule in spec.flags:
        text = rule.text
        if rule.each_class:
            classes = {
                name: of_class[rule.metric]
                for name, of_class in by_class.items()
                if rule.metric in of_class and of_class[rule.metric].low > rule.above
            }
            if not classes:
                continue
            text += " " + ", ".join(f"{name}: {estimate}" for name, estimate in classes.items()) + "."
        elif rule.metric not in estimates or not estimates[rule.metric].value > rule.above:
            continue
        doubts = tuple(sorted(need.value for need in rule.doubts))
        raised.append(FlagRecord(id=rule.id, check=key, text=text, remedy=rule.remedy, doubts=doubts))
    return tuple(raised)
