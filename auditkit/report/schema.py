"""The JSON Schema of `result.json`, as it is published in the docs."""

from __future__ import annotations

from typing import Any

from auditkit.report.facts import json_text
from auditkit.result import Result

__all__ = ["result_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def result_schema() -> str:
    """Return the JSON Schema (draft 2020-12) of a stored result, as text."""
    schema: dict[str, Any] = {"$schema": _DIALECT, **Result.model_json_schema(by_alias=True)}
    return json_text(schema)
