"""The header of a safetensors file: names, kinds and places of its tensors, and nothing that could run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from auditkit.errors import ExecutionError
from auditkit.models.inspection.text import first_line, shown

__all__ = ["LARGEST_HEADER", "safetensors_facts"]

LARGEST_HEADER = 100_000_000
"""Bytes of a header, as the format has it."""

_LENGTH = 8


def safetensors_facts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield what a safetensors file says about itself.

    Raises:
        ExecutionError: its header is none, or names places beyond the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        if size < _LENGTH or length > min(LARGEST_HEADER, size - _LENGTH):
            raise ExecutionError(f"{path}: not a safetensors file (a header of {length} bytes in a file of {size})")
        header = file.read(length)
    try:
        tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        ends = [entry["data_offsets"][1] for entry in tensors.values()]
        numbers = sum(math.prod(entry["shape"]) for entry in tensors.values())
        kinds = sorted({str(entry["dtype"]) for entry in tensors.values()})
        if max(ends, default=0) != size - _LENGTH - length:
            raise ValueError("the tensors do not end where the file ends")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ExecutionError(f"{path}: not a safetensors file ({first_line(error)})") from error
    yield "format", "safetensors: weights, not a network"
    yield "parameters", f"{shown(numbers, 40)} numbers in {len(tensors)} tensors ({shown(', '.join(kinds))})"
    yield "loading runs", "no code: the format holds none"
