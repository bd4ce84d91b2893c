"""Free-form settings as rows of a table: nested names joined by dots, budgets written both ways."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from auditkit.budgets import budget_text

__all__ = ["field_rows", "field_text"]


def field_rows(fields: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return `(name, text)` of every field, those of nested mappings in place."""
    return list(_rows(fields, prefix))


def _rows(fields: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field_text(value)


def field_text(value: Any) -> str:
    """Return any JSON value as a reader would write it."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case str():
            return value
        case float():
            return _number_text(value)
        case list() | tuple() if not any(isinstance(part, list | tuple | Mapping) for part in value):
            return ", ".join(map(field_text, value)) or "none"
        case _:
            return json.dumps(value, ensure_ascii=False, default=str)


def _number_text(value: float) -> str:
    if not 0 < value < 1:
        return f"{value:g}"
    fraction = budget_text(value)
    return f"{fraction} ({value:.4g})" if "/" in fraction else f"{value:g}"
