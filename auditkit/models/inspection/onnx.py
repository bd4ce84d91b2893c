"""A stranger's ONNX file, looked at before any runtime gets it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx

from auditkit.errors import AuditError, ExecutionError, UsageError
from auditkit.models.inspection.onnx_shapes import check_shapes
from auditkit.models.inspection.onnx_structure import check_structure, domains
from auditkit.models.inspection.onnx_tensors import (
    LARGEST_MODEL,
    check_sizes,
    embed_external_data,
    external_tensors,
)
from auditkit.models.inspection.text import first_line, shown, size_in_words

__all__ = ["onnx_facts", "read_onnx"]

_OLDEST_IR = 3


def read_onnx(path: Path) -> tuple[onnx.ModelProto, list[Path]]:
    """Return a graph that was looked at, with all its tensors in it, and the files of its external data.

    Raises:
        UsageError: the graph is one that auditkit does not give to a runtime.
        ExecutionError: the file is no ONNX graph.
    """
    try:
        model = _parsed(path)
        check_structure(model, path)
        check_sizes(model, path)
        check_shapes(model, path)
        return model, embed_external_data(model, path)
    except AuditError:
        raise
    except Exception as error:
        raise ExecutionError(f"{path}: not a readable ONNX file ({first_line(error)})") from error


def onnx_facts(path: Path) -> Iterator[tuple[str, str]]:
    """Yield what an ONNX file says about itself, then raise what `read_onnx` would.

    Raises:
        AuditError: auditkit would refuse the file.
    """
    try:
        model = _parsed(path)
        yield from _facts(model)
    except AuditError:
        raise
    except Exception as error:
        raise ExecutionError(f"{path}: not a readable ONNX file ({first_line(error)})") from error
    files = read_onnx(path)[1]
    if files:
        yield "external data", f"{', '.join(shown(file.name) for file in files)}, in the model's folder"


def _parsed(path: Path) -> onnx.ModelProto:
    size = path.stat().st_size
    if size > LARGEST_MODEL:
        raise UsageError(f"{path}: {size_in_words(size)}; an ONNX file has {size_in_words(LARGEST_MODEL)} at most")
    model: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
    # What this version of ONNX does not know is not looked at, so that no other library gets it either.
    model.DiscardUnknownFields()
    if not model.graph.node or model.ir_version < _OLDEST_IR:
        raise ExecutionError(f"{path}: not a readable ONNX file (there is no graph in it, or one without nodes)")
    return model


def _facts(model: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    versions = ", ".join(f"{shown(entry.domain or 'ai.onnx')} {entry.version}" for entry in model.opset_import)
    yield "format", f"ONNX, IR version {model.ir_version}, operator sets: {versions or 'none named'}"
    yield "producer", shown(f"{model.producer_name} {model.producer_version}".strip() or "not named")
    yield "nodes", str(sum(domains(model).values()))
    numbers = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
    yield "parameters", f"{numbers} numbers in {len(model.graph.initializer)} tensors"
    given = {tensor.name for tensor in model.graph.initializer}
    for name, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            if value.name not in given:
                yield name, _described(value)
    counted = ", ".join(f"{shown(domain)} ({count} nodes)" for domain, count in domains(model).items())
    yield "domains of operators", counted
    external = external_tensors(model)
    if external:
        named = sorted(
            {entry.value for tensor in external for entry in tensor.external_data if entry.key == "location"}
        )
        yield "external data named", ", ".join(shown(ascii(name)) for name in named[:10])
    yield "loading runs", "no code of the file: a graph of operators"


def _described(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = [str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type) if tensor.elem_type in _KINDS else "unknown kind"
    return shown(f"{value.name}: {kind.lower()} [{', '.join(dims)}]")


_KINDS = frozenset(onnx.TensorProto.DataType.values())
