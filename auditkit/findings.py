"""Holds findings to the contract, and reduces columns to metrics, curves and flags: no plugin does statistics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from auditkit.budgets import parse_budget
from auditkit.check import Curve, Exhibit, Findings, Metric, Panel, Spec
from auditkit.errors import ExecutionError
from auditkit.precision import Matches, average_precision, check_matches, join_matches, precision_drop
from auditkit.result import ColumnRecord, CurveRecord, FlagRecord, PointRecord
from auditkit.separation import auroc, fpr_at_tpr, roc, tpr_at_fpr
from auditkit.stats import Estimate, mean, median, proportion, ratio

__all__ = [
    "AllMatches",
    "Columns",
    "check_columns",
    "check_same_names",
    "curves",
    "flags",
    "join_all_matches",
    "join_others",
    "maps",
    "metric_columns",
    "metrics",
    "top_exhibits",
]

Found = TypeVar("Found")
Shown = TypeVar("Shown", bound="_Ranked")
Columns = Mapping[str, npt.NDArray[Any]]
AllMatches = Mapping[str, Matches]
Share = Callable[[int, int], Estimate]
"""How a share is estimated from the images that count and all images."""
_NOTHING: Columns = MappingProxyType({})
_NO_MATCHES: AllMatches = MappingProxyType({})


class _Ranked(Protocol):
    """What decides whether an exhibit is shown; `Exhibit` says what each is."""

    @property
    def sample(self) -> str: ...
    @property
    def caption(self) -> str: ...
    @property
    def score(self) -> float: ...


# A curve over a column has this many points between the smallest and the largest value, and x to so many digits.
_CURVE_POINTS = 24
_CURVE_DIGITS = 3


def check_columns(spec: Spec, findings: Findings, n: int) -> None:
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
        table = _table(metric.column, findings.columns, findings.others)
        named = _columns_of(metric, table)
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
            table = _table(curve.column, findings.columns, findings.others)
            _check_named(spec, what, [curve.among], Findings(table))


def _check_precision(spec: Spec, metric: Metric, matches: AllMatches) -> None:
    for name in filter(None, (metric.column, metric.against)):
        if not any(known == name or known.startswith(f"{name}@") for known in matches):
            raise ExecutionError(f"{spec.id} returned no matches {name}, which its metric {metric.name} needs")


def _check_ratio(spec: Spec, metric: Metric, columns: Columns) -> None:
    named = _columns_of(metric, columns)
    if not named:
        raise ExecutionError(f"{spec.id} returned no column {metric.column}, which its metric {metric.name} needs")
    for suffix, part in named:
        whole = _whole(metric, suffix, columns)
        if whole is None:
            raise ExecutionError(f"{spec.id} returned no column {metric.against}, which its metric {metric.name} needs")
        if not (np.isfinite(part).all() and np.isfinite(whole).all() and (part >= 0).all() and (part <= whole).all()):
            raise ExecutionError(
                f"{spec.id} returned column {metric.column}{suffix} that is no part of {metric.against}: wanted "
                "0 <= part <= whole for every image"
            )


def _whole(metric: Metric, suffix: str, columns: Columns) -> npt.NDArray[Any] | None:
    assert metric.against is not None  # noqa: S101 (a ratio has it)
    return columns.get(metric.against + suffix, columns.get(metric.against))


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
    among = _among(metric, suffix, columns)
    if among is None and metric.among is not None:
        raise ExecutionError(f"{spec.id} returned no column {metric.among}, which its metric {metric.name} needs")
    counted = column[among] if among is not None else column
    if not np.isfinite(counted).all():
        raise ExecutionError(f"{spec.id} returned NaN or infinity in column {metric.column}{suffix}")


def _table(name: str, columns: Columns, others: Columns) -> Columns:
    """Return the table that holds this column: that of the samples, or that of other images."""
    return others if name in others else columns


def _columns_of(metric: Metric, columns: Mapping[str, Found]) -> list[tuple[str, Found]]:
    """Return (suffix, column) for the plain column and for every one with a budget."""
    found = [("", columns[metric.column])] if metric.column in columns else []
    prefix = metric.column + "@"
    return found + [(name[len(metric.column) :], columns[name]) for name in columns if name.startswith(prefix)]


def _among(metric: Metric, suffix: str, columns: Columns) -> npt.NDArray[np.bool_] | None:
    if metric.among is None:
        return None
    among = columns.get(metric.among + suffix, columns.get(metric.among))
    return None if among is None else among.astype(bool)


def check_same_names(what: str, first: Mapping[str, object], other: Mapping[str, object]) -> None:
    """Make sure that two shards have the same columns, or whatever it is that has names.

    Raises:
        ExecutionError: they do not.
    """
    if list(other) != list(first):
        raise ExecutionError(f"the shards have different {what}: {list(first)} and {list(other)}")


def join_others(parts: Sequence[Columns]) -> Columns:
    """Return the numbers about other images, which every shard has.

    Raises:
        ExecutionError: the shards do not have the same.
    """
    first = parts[0]
    for part in parts:
        same = list(part) == list(first) and all(
            np.array_equal(part[name], first[name], equal_nan=first[name].dtype.kind == "f") for name in first
        )
        if not same:
            raise ExecutionError("the shards have different numbers about other images")
    return first


def join_all_matches(parts: Sequence[AllMatches], rows: Sequence[int]) -> dict[str, Matches]:
    """Return the matches of all shards, the i-th of `rows[i]` images, in order.

    Raises:
        ExecutionError: the shards do not have the same matches.
    """
    for part in parts:
        check_same_names("matches", parts[0], part)
    return {name: join_matches([part[name] for part in parts], rows) for name in parts[0]}


def metrics(
    spec: Spec,
    columns: Columns,
    others: Columns = _NOTHING,
    share: Share = proportion,
    matches: AllMatches = _NO_MATCHES,
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
        table = _table(metric.column, columns, others)
        for name, suffix, column in _named(metric, table):
            among = _among(metric, suffix, table)
            counted = column[among] if among is not None else column
            if counted.size:
                estimates[name] = _estimate(metric, counted, share)
                titles[name] = metric.title
    return estimates, titles


def _of_objects(metric: Metric, columns: Columns, matches: AllMatches, n: int) -> Iterator[tuple[str, Estimate]]:
    """Yield the estimates of a metric about objects by name; none where there are no objects."""
    if metric.kind == "ratio":
        for name, suffix, part in _named(metric, columns):
            whole = _whole(metric, suffix, columns)
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


def metric_columns(spec: Spec, columns: Columns, others: Columns = _NOTHING) -> dict[str, ColumnRecord]:
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
    found = _columns_of(metric, columns)
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
    values = _table(name, columns, others)[name].astype(np.float64)
    return values[~np.isnan(values)]


def _compare(metric: Metric, noticed: npt.NDArray[np.float64], not_noticed: npt.NDArray[np.float64]) -> Estimate:
    if metric.at is None:
        return auroc(noticed, not_noticed)
    return (tpr_at_fpr if metric.kind == "tpr" else fpr_at_tpr)(noticed, not_noticed, metric.at)


def curves(
    spec: Spec,
    estimates: Mapping[str, Estimate],
    columns: Columns = _NOTHING,
    others: Columns = _NOTHING,
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
        return _over_column(curve, _table(curve.column, columns, others), share)
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


def top_exhibits(exhibits: Iterable[Shown], count: int) -> list[Shown]:
    """Return the exhibits with the largest score, ties by sample id: the same whatever the shards.

    One of an image that is no sample comes from every shard, and counts once. The best of many are the best of the best
    of some and of the rest, so they can be found as the shards come.
    """
    different = {(exhibit.sample, exhibit.caption, exhibit.score): exhibit for exhibit in exhibits}
    return sorted(different.values(), key=lambda exhibit: (-exhibit.score, exhibit.sample))[:count]
