"""From many shards to one picture: tallies become one, and metrics are shown class by class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from auditkit.check import Conclusion, Spec, Tally
from auditkit.columns import Columns
from auditkit.errors import ExecutionError
from auditkit.findings import Share, metrics
from auditkit.precision import Matches, category_precision
from auditkit.result import ProfileRecord, TableRecord
from auditkit.stats import Estimate, proportion

__all__ = [
    "ClassEstimates",
    "class_estimates",
    "class_table",
    "concluded",
    "grid_tables",
    "merge_tallies",
    "precision_table",
]

_COMBINE = {"sum": np.add, "largest": np.maximum, "least": np.minimum}


def merge_tallies(parts: Sequence[Mapping[str, Tally]]) -> dict[str, npt.NDArray[Any]]:
    """Return one array for each tally that the shards have.

    Raises:
        ExecutionError: the shards have different tallies, or some that cannot be combined.
    """
    first = parts[0]
    merged = {name: tally.array for name, tally in first.items()}
    for part in parts[1:]:
        if list(part) != list(first):
            raise ExecutionError(f"the shards have different tallies: {list(first)} and {list(part)}")
        for name, tally in part.items():
            if tally.array.shape != merged[name].shape or tally.combine != first[name].combine:
                raise ExecutionError(f"the shards have tallies {name} that cannot be combined")
            merged[name] = _COMBINE[tally.combine](merged[name], tally.array)
    return merged


def concluded(conclusion: Conclusion) -> tuple[tuple[TableRecord, ...], tuple[ProfileRecord, ...]]:
    """Return what a check concluded, as the result stores it."""
    tables = tuple(
        TableRecord(title=table.title, columns=table.columns, rows=table.rows) for table in conclusion.tables
    )
    profiles = tuple(
        ProfileRecord(
            title=profile.title,
            x_label=profile.x_label,
            y_label=profile.y_label,
            places=profile.places,
            lines={line.name: line.values for line in profile.lines},
            logarithmic=profile.logarithmic,
        )
        for profile in conclusion.profiles
    )
    return tables, profiles


@dataclass(frozen=True)
class ClassEstimates:
    """The metrics that a spec wants class by class."""

    images: Mapping[str, int]
    """How many there are of each class, by its name."""
    estimates: Mapping[str, Mapping[str, Estimate]]
    titles: Mapping[str, str]
    """Of the metrics."""


def class_estimates(
    spec: Spec,
    columns: Columns,
    labels: npt.NDArray[np.int64],
    names: Sequence[str] | None,
    others: Columns = MappingProxyType({}),
    share: Share = proportion,
) -> ClassEstimates:
    """Return the metrics of `spec.by_class` for each class.

    `columns` (N,) and `labels` (N,) are about the samples, and `others` about images that belong to no class of these:
    each class is compared with all of them.
    """
    wanted = {name.partition("@")[0] for name in spec.by_class}
    spec = replace(spec, metrics=tuple(metric for metric in spec.metrics if metric.name in wanted))
    images: dict[str, int] = {}
    found: dict[str, Mapping[str, Estimate]] = {}
    titles: dict[str, str] = {}
    for label, own in _rows_by_label(labels) if wanted else ():
        name = _class_name(label, names)
        of_class = {column: values[own] for column, values in columns.items()}
        found[name], of_metrics = metrics(spec, of_class, others, share)
        images[name] = len(own)
        titles |= of_metrics
    return ClassEstimates(images, found, titles)


def _rows_by_label(labels: npt.NDArray[np.int64]) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Yield each label with its rows, both in order: one sort, as a thousand masks over all rows would take long."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    yield from zip(present.tolist(), np.split(order, starts[1:]), strict=False)


def class_table(spec: Spec, classes: ClassEstimates) -> TableRecord | None:
    """Return them as a table, the worst class first; None where there is nothing to show."""
    shown = [name for name in spec.by_class if any(name in found for found in classes.estimates.values())]
    if not shown:
        return None
    sign = 1 if spec.worst == "least" else -1
    rows = [(name, found) for name, found in classes.estimates.items() if any(metric in found for metric in shown)]
    rows.sort(key=lambda row: (shown[0] not in row[1], sign * _value(row[1].get(shown[0])), row[0]))
    return TableRecord(
        title="Class by class, the worst first",
        columns=("class", "images", *(classes.titles[name] for name in shown)),
        rows=tuple((name, classes.images[name], *(found.get(metric) for metric in shown)) for name, found in rows),
    )


def precision_table(
    spec: Spec, matches: Mapping[str, Matches], n: int, names: Sequence[str] | None
) -> TableRecord | None:
    """Return the average precision of each class of objects in `n` images, the worst class first.

    It shows the metrics of `spec.by_class` that are an average precision; None where there are none.
    """
    shown = [metric for metric in spec.metrics if metric.name in spec.by_class and metric.kind == "precision"]
    found = [category_precision(matches[metric.column], n, metric.at) for metric in shown if metric.column in matches]
    if not found:
        return None
    first = matches[shown[0].column]
    objects = dict(zip(*(each.tolist() for each in np.unique(first.object_category, return_counts=True)), strict=True))
    order = sorted(found[0], key=lambda category: (found[0][category].value, category))
    return TableRecord(
        title="Class by class, the worst first",
        columns=("class", "objects", *(metric.title for metric in shown)),
        rows=tuple(
            (_class_name(category, names), objects[category], *(each.get(category) for each in found))
            for category in order
        ),
    )


def grid_tables(spec: Spec, estimates: Mapping[str, Estimate]) -> tuple[TableRecord, ...]:
    """Return the grids of a spec as tables, without rows and grids that hold nothing."""
    tables = []
    for grid in spec.grids:
        rows = tuple(
            (f"{row}: {words}", *(estimates.get(f"{row}_{column}") for column in grid.columns))
            for row, words in grid.rows.items()
            if any(f"{row}_{column}" in estimates for column in grid.columns)
        )
        titles = (f"{words} ({column})" for column, words in grid.columns.items())
        if rows:
            tables.append(TableRecord(title=grid.title, columns=("", *titles), rows=rows))
    return tuple(tables)


def _value(estimate: Estimate | None) -> float:
    return estimate.value if estimate is not None else 0.0


def _class_name(label: int, names: Sequence[str] | None) -> str:
    return names[label] if names is not None and 0 <= label < len(names) else f"class {label}"
