"""What the machine-readable outputs share: facts of a result in the form that the standards ask for."""

from __future__ import annotations

import datetime
import json
import re
from typing import Any

from auditkit.report.text import clean
from auditkit.result import ModelRecord, Result

__all__ = ["file_digest", "is_file", "json_text", "started", "tool_version"]

# The format of a network that came from a factory or from the caller's program.
_IN_MEMORY = "torch"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_file(model: ModelRecord) -> bool:
    """Return whether the model was read from a file; its name is then that of the file, without the folder."""
    return model.format != _IN_MEMORY


def file_digest(model: ModelRecord) -> str | None:
    """Return the sha256 (hex) of the model's file or files, None for a network that came from no file."""
    return model.digest if is_file(model) and _SHA256.fullmatch(model.digest) else None


def tool_version(result: Result) -> str:
    """Return the version of the auditkit that measured, `unknown` where the result does not tell."""
    versions = result.volatile.get("versions")
    return str(versions.get("auditkit", "unknown")) if isinstance(versions, dict) else "unknown"


def started(result: Result) -> str | None:
    """Return when the audit began, in UTC, such as `2026-11-22T09:14:03Z`; None where the result does not tell."""
    try:
        date = datetime.datetime.fromisoformat(str(result.volatile.get("date")))
    except ValueError:
        return None
    return date.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if date.tzinfo is not None else None


def json_text(data: Any) -> str:
    """Return plain data as strict JSON; what reorders or breaks text is replaced (see `clean`), all else is kept."""
    return json.dumps(_cleaned(data), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _cleaned(data: Any) -> Any:
    match data:
        case str():
            return clean(data)
        case dict():
            return {clean(str(name)): _cleaned(value) for name, value in data.items()}
        case list() | tuple():
            return [_cleaned(value) for value in data]
        case _:
            return data
