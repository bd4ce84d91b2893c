"""Tensors of a stranger's ONNX file: as large as they say, and their bytes in the file or in the model's folder."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from auditkit.errors import UsageError
from auditkit.models.inspection.text import shown, size_in_words

__all__ = ["LARGEST_MODEL", "check_sizes", "embed_external_data", "external_tensors", "messages"]

LARGEST_MODEL = 2**31 - 1
"""Bytes of a graph with its external data: what protobuf takes in one piece, which is how onnxruntime gets it."""

_LARGEST_SPARSE = 2**30
_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
}
_TWO_NUMBERS = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
_LISTS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def messages(message: Any, kind: type[Any]) -> Iterator[Any]:
    """Yield every message of a kind anywhere in a protobuf message, also in fields that no list of ours knows."""
    if isinstance(message, kind):
        yield message
    if isinstance(message, TensorProto):
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if hasattr(value, "__len__") else (value,):
                yield from messages(part, kind)


def external_tensors(model: onnx.ModelProto) -> list[TensorProto]:
    """Return the tensors whose bytes are in other files."""
    return [
        tensor
        for tensor in messages(model, TensorProto)
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data
    ]


def check_sizes(model: onnx.ModelProto, path: Path) -> None:
    """Refuse tensors that are not as large as their shapes say, and sparse ones that would be far larger as dense.

    Raises:
        UsageError: there is such a tensor.
    """
    for tensor in messages(model, TensorProto):
        if tensor.data_location != TensorProto.EXTERNAL and not tensor.external_data:
            _check_size(tensor, path)
    for sparse in messages(model, onnx.SparseTensorProto):
        dense = 8 * _product(sparse.dims, sparse.values.name, path)
        if dense > _LARGEST_SPARSE:
            raise UsageError(
                f"{path}: the sparse tensor {shown(sparse.values.name)} would be {size_in_words(dense)} as a dense "
                f"one; auditkit takes {size_in_words(_LARGEST_SPARSE)}"
            )


def _check_size(tensor: TensorProto, path: Path) -> None:
    count = _product(tensor.dims, tensor.name, path)
    bits = _BITS.get(tensor.data_type)
    if tensor.HasField("raw_data"):
        there, wanted = len(tensor.raw_data), None if bits is None else math.ceil(count * bits / 8)
    else:
        there = sum(len(getattr(tensor, name)) for name in _LISTS)
        wanted = _listed(count, tensor.data_type)
    if wanted is not None and there != wanted:
        kind = "bytes" if tensor.HasField("raw_data") else "numbers"
        raise UsageError(
            f"{path}: the tensor {shown(tensor.name)} of shape {shown(list(tensor.dims))} needs {wanted} {kind}; "
            f"the file holds {there}"
        )
    if wanted is None and count > LARGEST_MODEL:
        raise UsageError(f"{path}: the tensor {shown(tensor.name)} says that it has {count} numbers")


def _listed(count: int, data_type: int) -> int | None:
    """Return how many entries a list of numbers has for so many values; None for kinds that this does not know."""
    if data_type == TensorProto.STRING:
        return count
    bits = _BITS.get(data_type)
    if bits is None:
        return None
    return 2 * count if data_type in _TWO_NUMBERS else math.ceil(count / 2) if bits == 4 else count


def _product(dims: Any, name: str, path: Path) -> int:
    if any(length < 0 for length in dims) or math.prod(length or 1 for length in dims) > 2**62:
        raise UsageError(f"{path}: the tensor {shown(name)} has the impossible shape {shown(list(dims))}")
    return math.prod(dims)


def embed_external_data(model: onnx.ModelProto, path: Path) -> list[Path]:
    """Read the bytes of external tensors into the graph, from files in the model's own folder only.

    Nothing is left in the graph that another library could follow to a file (or, in onnxruntime, to an address).

    Returns:
        The files, in the order of the names that the graph has for them.

    Raises:
        UsageError: a file is outside of the folder, or too small, or all of them are too large.
    """
    files: dict[str, Path] = {}
    total = path.stat().st_size
    for tensor in external_tensors(model):
        location, file, offset, length = _external_place(tensor, path)
        total += length
        if total > LARGEST_MODEL:
            raise UsageError(
                f"{path}: more than {size_in_words(LARGEST_MODEL)} with its external data, the most there can be"
            )
        _check_external_size(tensor, length, path)
        with file.open("rb") as stream:
            stream.seek(offset)
            tensor.raw_data = stream.read(length)
        for name in _LISTS:
            tensor.ClearField(name)
        tensor.ClearField("external_data")
        tensor.data_location = TensorProto.DEFAULT
        files[location] = file
    return [files[location] for location in sorted(files)]


def _check_external_size(tensor: TensorProto, length: int, path: Path) -> None:
    bits = _BITS.get(tensor.data_type)
    count = _product(tensor.dims, tensor.name, path)
    if bits is None or math.ceil(count * bits / 8) != length:
        raise UsageError(
            f"{path}: the external tensor {shown(tensor.name)} of shape {shown(list(tensor.dims))} does not have the "
            f"{length} bytes that its entry names"
        )


def _external_place(tensor: TensorProto, path: Path) -> tuple[str, Path, int, int]:
    """Return the name, the file, the offset and the length of an external tensor.

    Raises:
        UsageError: the file is not in the model's folder, or the bytes are not in the file.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    named = f"{path}: the external data {shown(ascii(location))} of the tensor {shown(tensor.name)}"
    parts = location.replace("\\", "/").split("/")
    if not location or "\0" in location or location != location.strip() or ":" in location or ".." in parts:
        raise UsageError(f"{named} is not a file in the model's folder; auditkit reads no other")
    folder = Path(os.path.realpath(path.parent))
    file = Path(os.path.realpath(folder / location))
    if not file.is_relative_to(folder) or Path(location).is_absolute() or "\\" in location:
        raise UsageError(f"{named} is not a file in the model's folder; auditkit reads no other")
    if not file.is_file():
        raise UsageError(f"{named} is missing: wanted it beside the model, as {shown(file.name)}")
    size = file.stat().st_size
    offset = _number(entries.get("offset", "0"))
    length = _number(entries["length"]) if "length" in entries else size - (offset or 0)
    if offset is None or length is None or length < 0 or offset + length > size:
        wanted = (
            f"offset {shown(entries.get('offset', '0'), 30)}, length {shown(entries.get('length', 'to the end'), 30)}"
        )
        raise UsageError(f"{named}: {wanted} goes beyond the file of {size} bytes")
    return location, file, offset, length


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
