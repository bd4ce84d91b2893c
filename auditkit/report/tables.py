"""Tables that checks make, ready for the page: what each cell says, and how much of a long table is shown at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from auditkit.report.text import interval_text, number_text, value_text
from auditkit.result import TableRecord
from auditkit.stats import Estimate

__all__ = ["SHOWN_ROWS", "Cell", "TableView", "table_view"]

SHOWN_ROWS = 12
"""How many rows of a table are shown at once."""

Kind = Literal["text", "number", "estimate", "empty"]


@dataclass(frozen=True)
class Cell:
    """One cell: its text and, of an estimate, the interval."""

    kind: Kind
    text: str
    interval: str = ""


@dataclass(frozen=True)
class TableView:
    """A table: names of the columns and whether they hold numbers, the rows to show at once, and the others.

    `left_out` counts the rows that are not on the page.
    """

    title: str
    columns: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[Cell, ...], ...]
    more: tuple[tuple[Cell, ...], ...]
    left_out: int


def table_view(table: TableRecord, most: int | None = None) -> TableView:
    """Return a table of a check as the page shows it, with at most so many rows."""
    rows = tuple(tuple(map(_cell, row)) for row in table.rows[:most])
    columns = tuple((name, _numeric(rows, number)) for number, name in enumerate(table.columns))
    return TableView(table.title, columns, rows[:SHOWN_ROWS], rows[SHOWN_ROWS:], len(table.rows) - len(rows))


def _cell(value: str | float | Estimate | None) -> Cell:
    match value:
        case None:
            return Cell("empty", "")
        case str():
            return Cell("text", value)
        case Estimate():
            return Cell("estimate", value_text(value), interval_text(value))
        case _:
            return Cell("number", number_text(value))


def _numeric(rows: Sequence[Sequence[Cell]], number: int) -> bool:
    kinds = {row[number].kind for row in rows if number < len(row)} - {"empty"}
    return bool(kinds) and "text" not in kinds
