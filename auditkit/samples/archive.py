"""Reading the arrays of a numpy `.npz` file; pickled objects are never loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from auditkit.errors import ExecutionError

__all__ = ["load_arrays", "texts"]


def load_arrays(path: Path, names: Sequence[str]) -> tuple[dict[str, NDArray[Any]], str]:
    """Return those of the named arrays that are in an archive, and the names of all that are.

    Raises:
        ExecutionError: It is damaged, no archive, or one of these arrays holds pickled objects.
    """
    try:
        # Given a path, numpy leaves the file open when the archive turns out to be damaged.
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, NpzFile):
                raise ExecutionError(f"{path}: holds a single array, wanted an archive of named arrays")
            return {key: archive[key] for key in names if key in archive.files}, ", ".join(archive.files)
    except ExecutionError:
        raise
    # A damaged archive surfaces as an error of zipfile, zlib, lzma, struct or numpy.
    except Exception as error:
        raise ExecutionError(f"{path}: cannot be read as an npz archive: {_reason(error)}") from error


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


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return "it holds pickled Python objects, which are not loaded" if "allow_pickle" in text else text
