"""Which columns a metric is about, by their names: `column` itself, and `column@budget` for each budget."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from auditkit.check import Metric
from auditkit.precision import Matches

__all__ = ["NOTHING", "NO_MATCHES", "AllMatches", "Columns", "among_of", "columns_of", "table_of", "whole_of"]

Found = TypeVar("Found")
Columns = Mapping[str, npt.NDArray[Any]]
AllMatches = Mapping[str, Matches]
NOTHING: Columns = MappingProxyType({})
NO_MATCHES: AllMatches = MappingProxyType({})


def table_of(name: str, columns: Columns, others: Columns) -> Columns:
    """Return the table that holds this column: that of the samples, or that of other images."""
    return others if name in others else columns


def columns_of(metric: Metric, columns: Mapping[str, Found]) -> list[tuple[str, Found]]:
    """Return (suffix, column) for the plain column and for every one with a budget."""
    found = [("", columns[metric.column])] if metric.column in columns else []
    prefix = metric.column + "@"
    return found + [(name[len(metric.column) :], columns[name]) for name in columns if name.startswith(prefix)]


def among_of(metric: Metric, suffix: str, columns: Columns) -> npt.NDArray[np.bool_] | None:
    """Return bool (N,): the samples that count for a column with this budget; None: all, or there is no such column."""
    if metric.among is None:
        return None
    among = columns.get(metric.among + suffix, columns.get(metric.among))
    return None if among is None else among.astype(bool)


def whole_of(metric: Metric, suffix: str, columns: Columns) -> npt.NDArray[Any] | None:
    """Return the column of which a ratio's column with this budget is a part; None: there is none."""
    assert metric.against is not None  # noqa: S101 (a ratio has it)
    return columns.get(metric.against + suffix, columns.get(metric.against))
