"""What a check found on all shards, put together unit by unit: never more than one unit is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from auditkit.check import Tally
from auditkit.columns import AllMatches, Columns
from auditkit.exhibits import EXHIBITS
from auditkit.joining import check_same_names, join_all_matches, join_others, top_exhibits
from auditkit.precision import Matches
from auditkit.store import StoredExhibit, Unit
from auditkit.summaries import merge_tallies

__all__ = ["Gathering"]


@dataclass
class Gathering:
    """The findings of one check on the shards so far."""

    units: int = 0
    """How many shards."""
    exhibits: Sequence[StoredExhibit] = ()
    """Those that the gallery holds, were this all; their pictures are still in the units' files."""
    others: Columns = field(default_factory=dict)
    _columns: dict[str, list[npt.NDArray[Any]]] = field(default_factory=dict)
    _tallies: dict[str, Tally] = field(default_factory=dict)
    _matches: list[AllMatches] = field(default_factory=list)
    _rows: list[int] = field(default_factory=list)
    _passes: dict[str, list[npt.NDArray[np.int64] | None]] = field(
        default_factory=lambda: {"forwards": [], "backwards": []}
    )
    _seconds: list[float] = field(default_factory=list)

    def add(self, unit: Unit, exhibits: Sequence[StoredExhibit]) -> None:
        """Add the unit of the next shard, its exhibits given apart.

        Raises:
            ExecutionError: it does not fit to those before, and was not added.
        """
        findings = unit.findings
        if not self.units:
            self._columns = {name: [] for name in findings.columns}
            self.others, self._tallies = findings.others, dict(findings.tallies)
        else:
            check_same_names("columns", self._columns, findings.columns)
            join_others([self.others, findings.others])
            check_same_names("matches", self._matches[0], findings.matches)
            merged = merge_tallies([self._tallies, findings.tallies])
            self._tallies = {name: Tally(array, self._tallies[name].combine) for name, array in merged.items()}
        for name, column in findings.columns.items():
            self._columns[name].append(column)
        for field_name, counts in self._passes.items():
            counts.append(getattr(findings, field_name))
        self._matches.append(findings.matches)
        self._rows.append(len(next(iter(findings.columns.values()), ())))
        self._seconds.append(unit.seconds)
        self.exhibits = top_exhibits([*self.exhibits, *exhibits], EXHIBITS)
        self.units += 1

    @property
    def seconds(self) -> float:
        """How long it took, in all."""
        return sum(self._seconds)

    def tallies(self) -> dict[str, npt.NDArray[Any]]:
        """Return one array for each tally that the shards have; the caller may change it."""
        return {name: tally.array.copy() for name, tally in self._tallies.items()}

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns over all shards, in order."""
        return {name: _joined(parts) for name, parts in self._columns.items()}

    def passes(self, name: str) -> npt.NDArray[np.int64] | None:
        """Return the `forwards` or `backwards` of each sample; None where a shard did not count them."""
        counted = [counts for counts in self._passes[name] if counts is not None]
        return np.concatenate(counted) if len(counted) == self.units else None

    def matches(self) -> dict[str, Matches]:
        """Return the matches over all shards, in order."""
        joined = join_all_matches(self._matches, self._rows)
        self._matches, self._rows = [joined], [sum(self._rows)]
        return joined


def _joined(parts: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return the parts as one array, and keep that alone: no two columns are held twice."""
    if len(parts) > 1:
        parts[:] = [np.concatenate(parts)]
    return parts[0]
