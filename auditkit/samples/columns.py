"""What is known of all rows before the first image is read: ids, labels, class names."""

from __future__ import annotations

from collections.abc import Sequence

from auditkit.errors import ExecutionError
from auditkit.quoting import printable

__all__ = ["check_ids", "label_problem", "printable"]


def label_problem(label: int, class_names: Sequence[str] | None) -> str | None:
    """Return what is wrong with a class index, or None."""
    if label < 0:
        return f"label {label} is negative, wanted a class index from 0"
    if class_names is not None and label >= len(class_names):
        return f"label {label} is out of range: there are {len(class_names)} class names"
    if label >= 2**63:
        return f"label {label} is too large for a class index"
    return None


def check_ids(ids: Sequence[str], count: int, source: str, of: str = "images") -> None:
    """Make sure that there is one id a row, and no id twice; `of` says what the rows are.

    Raises:
        ExecutionError: There is not.
    """
    if len(ids) != count:
        raise ExecutionError(f"{source}: {len(ids)} ids for {count} {of}")
    seen: dict[str, int] = {}
    for row, name in enumerate(ids):
        if name in seen:
            raise ExecutionError(f"{source}: id {name!r} of row {row} is also the id of row {seen[name]}")
        seen[name] = row
