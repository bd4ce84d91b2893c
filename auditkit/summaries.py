"""From many shards to one picture: tallies become one, and metrics are shown class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from auditkit.check import Conclusion, Spec, Tally
from auditkit.errors import ExecutionError
from auditkit.findings import Columns, metrics
from auditkit.result import ProfileRecord, TableRecord
from auditkit.stats import Estimate

__all__ = ["class_table", "concluded", "merge_tallies"]

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


def class_table(
    spec: Spec,
    columns: Columns,
    labels: npt.NDArray[np.int64],
    names: Sequence[str] | None,
    others: Columns = MappingProxyType({}),
) -> TableRecord | None:
    """Return the metrics that the spec wants class by class, the worst class first; None where it wants none.

    `columns` (N,) and `labels` (N,) are about the samples, and `others` about images that belong to no class of these:
    each class is compared with all of them.
    """
    if not spec.by_class:
        return None
    wanted = {name.partition("@")[0] for name in spec.by_class}
    spec = replace(spec, metrics=tuple(metric for metric in spec.metrics if metric.name in wanted))
    found: list[tuple[str, int, dict[str, Estimate]]] = []
    titles: dict[str, str] = {}
    for label in np.unique(labels).tolist():
        own = labels == label
        estimates, of_class = metrics(spec, {name: column[own] for name, column in columns.items()}, others)
        titles |= of_class
        found.append((_class_name(label, names), int(own.sum()), estimates))
    shown = [name for name in spec.by_class if any(name in estimates for _, _, estimates in found)]
    if not shown:
        return None
    sign = 1 if spec.worst == "least" else -1
    found = [entry for entry in found if any(name in entry[2] for name in shown)]
    found.sort(key=lambda entry: (shown[0] not in entry[2], sign * _value(entry[2].get(shown[0])), entry[0]))
    return TableRecord(
        title="Class by class, the worst first",
        columns=("class", "images", *(titles[name] for name in shown)),
        rows=tuple((name, n, *(estimates.get(metric) for metric in shown)) for name, n, estimates in found),
    )


def _value(estimate: Estimate | None) -> float:
    return estimate.value if estimate is not None else 0.0


def _class_name(label: int, names: Sequence[str] | None) -> str:
    return names[label] if names is not None and 0 <= label < len(names) else f"class {label}"
