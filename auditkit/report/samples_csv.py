"""The per-sample table as CSV: one row an image, for spreadsheets and whatever reads no `.npz`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["samples_csv"]


def samples_csv(table: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the table (a column an array of N values) as CSV (RFC 4180); what is not a number is an empty field."""
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\r\n")
    lines.writerow(table)
    lines.writerows(zip(*(_fields(column) for column in table.values()), strict=True))
    return text.getvalue()


def _fields(column: npt.NDArray[Any]) -> list[str]:
    match column.dtype.kind:
        case "b":
            return ["true" if value else "false" for value in column.tolist()]
        case "f":
            # Not `str`: that of a float32 shows fewer digits than tell it from its neighbours.
            return ["" if np.isnan(value) else repr(float(value)) for value in column]
        case _:
            return [str(value) for value in column.tolist()]
