"""Reading the arrays of a numpy `.npz` file; pickled objects are never loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from auditkit.archives import read_arrays
from auditkit.errors import ExecutionError
from auditkit.quoting import printable

__all__ = ["load_arrays", "texts"]


def load_arrays(path: Path, names: Sequence[str]) -> tuple[dict[str, NDArray[Any]], str]:
    """Return those of the named arrays that are in an archive, and the names of all that are.

    Raises:
        ExecutionError: It is damaged, no archive, or one of these arrays holds pickled objects or is too large.
    """
    try:
        with path.open("rb") as stream:
            found, stored = read_arrays(stream, names)
    except ValueError as error:
        raise ExecutionError(f"{path}: cannot be read as an npz archive: {error}") from error
    return found, printable(", ".join(stored))


def texts(array: NDArray[Any], source: str) -> tuple[str, ...]:
    """Return an array of names or ids (N,) as texts.

    Raises:
        ExecutionError: It has another shape.
    """
    if array.ndim != 1:
        raise ExecutionError(f"{source}: names and ids must be one-dimensional, got shape {array.shape}")
    return tuple(
        text.decode(errors="backslashreplace") if isinstance(text, bytes) else str(text) for text in array.tolist()
    )
