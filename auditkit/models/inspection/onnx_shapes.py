"""Values of a stranger's ONNX graph that a few bytes of file would blow up to fill the memory."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.inliner

from auditkit.errors import UsageError
from auditkit.models.inspection.onnx_arithmetic import FEW, Known, Shape, Shapes, compute, count, small_array
from auditkit.models.inspection.text import shown, size_in_words

__all__ = ["LARGEST_IMAGE", "LARGEST_VALUE", "check_shapes"]

LARGEST_VALUE = 2**32
"""Bytes of any one value whose shape the file fixes, and of all that follow from constants alone together."""
LARGEST_IMAGE = 2**27
"""Numbers of one image of an input."""

_LONGEST_LISTS = 2**24
"""Numbers in all lists that are put together of others: shape inference carries them along, at many bytes each."""
_NUMBER = 4


def check_shapes(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a graph in which a value is known beforehand to be absurdly large.

    Sizes come from shape inference, and where a size is itself computed from constants, from computing it. What
    depends on the image alone is seen only when it runs.

    Raises:
        UsageError: there is such a value.
    """
    given = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in given and (numbers := count(_lengths_of(value)[1:])) > LARGEST_IMAGE:
            raise UsageError(
                f"{path}: one image of the input {shown(value.name)} has {numbers} numbers; "
                f"auditkit takes {LARGEST_IMAGE}"
            )
    skeleton = _with_functions_written_out(_without_weights(model))
    _Growth(path).follow(skeleton.graph, ChainMap({}), ChainMap(_inferred(skeleton)), ChainMap({}))


@dataclass
class _Growth:
    """What a file grows to, summed over the graph and all graphs inside of it."""

    path: Path
    constants: int = 0
    """Bytes of the values that follow from constants alone."""
    lists: int = 0
    """Numbers in lists that are put together of others."""

    def follow(self, graph: onnx.GraphProto, known: Known, shapes: Shapes, constant: ChainMap[str, bool]) -> None:
        """Go through a graph, knowing what is known around it.

        Args:
            graph: nodes in any order.
            known: small arrays by name; what is found is added to its first map.
            shapes: likewise.
            constant: names that depend on no input, likewise.

        Raises:
            UsageError: something grows too large.
        """
        for tensor in graph.initializer:
            shapes[tensor.name] = tuple(tensor.dims)
            constant[tensor.name] = True
            if (array := small_array(tensor)) is not None:
                known[tensor.name] = array
        constant.update({sparse.values.name: True for sparse in graph.sparse_initializer})
        made = {name for node in graph.node for name in node.output if name}
        for node in _in_order(graph.node, made):
            compute(node, known, shapes)
            self._add(node, shapes, constant)
            for attribute in node.attribute:
                for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                    self.follow(inner, known.new_child(), shapes.new_child(), constant.new_child())

    def _add(self, node: onnx.NodeProto, shapes: Shapes, constant: ChainMap[str, bool]) -> None:
        sizes = [_NUMBER * count(shapes.get(output, ())) for output in node.output]
        if sizes and max(sizes) > LARGEST_VALUE:
            raise UsageError(
                f"{self.path}: a value that {_named(node)} makes would take {size_in_words(max(sizes))}; "
                f"auditkit takes {size_in_words(LARGEST_VALUE)}"
            )
        if node.op_type == "Concat" and node.output and len(shapes.get(node.output[0], ())) == 1:
            self.lists += sizes[0] // _NUMBER
        if all(name in constant for name in node.input if name):
            constant.update(dict.fromkeys(node.output, True))
            self.constants += sum(sizes)
        if self.lists > _LONGEST_LISTS:
            raise UsageError(
                f"{self.path}: its lists of numbers grow beyond {_LONGEST_LISTS} numbers, at {_named(node)}"
            )
        if self.constants > LARGEST_VALUE:
            raise UsageError(
                f"{self.path}: its constants would grow to more than {size_in_words(LARGEST_VALUE)} when the graph is "
                f"loaded, at {_named(node)}"
            )


def _named(node: onnx.NodeProto) -> str:
    return f"the node {shown(node.name or next(iter(node.output), ''))} ({shown(node.op_type)})"


def _with_functions_written_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph with the functions of its file in the place of every call, as runtimes do it."""
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception:
        # What cannot be written out here, onnxruntime will not write out either.
        return model


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which large tensors have a shape only: what shape inference needs."""
    copy = onnx.ModelProto(ir_version=model.ir_version)
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    copy.graph.name = model.graph.name
    copy.graph.node.extend(model.graph.node)
    copy.graph.input.extend(model.graph.input)
    copy.graph.output.extend(model.graph.output)
    copy.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= FEW:
            copy.graph.initializer.append(tensor)
        else:
            copy.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return copy


def _inferred(model: onnx.ModelProto) -> dict[str, Shape]:
    """Return the shapes that follow from shapes; lists of numbers are not followed here, as some would not end."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except Exception:
        # A graph that inference cannot read is checked by what can be computed here, and refused by onnxruntime.
        graph = model.graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: _lengths_of(value) for value in values if value.type.tensor_type.HasField("shape")}


def _lengths_of(value: onnx.ValueInfoProto) -> Shape:
    dims = value.type.tensor_type.shape.dim
    return tuple(max(dim.dim_value, 0) if dim.HasField("dim_value") else None for dim in dims)


def _in_order(nodes: Sequence[onnx.NodeProto], made: set[str]) -> Iterator[onnx.NodeProto]:
    """Yield nodes after those whose outputs they take; `made` are the names that nodes make."""
    takers: dict[str, list[int]] = {}
    waiting = []
    for index, node in enumerate(nodes):
        names = made.intersection(node.input)
        waiting.append(len(names))
        for name in names:
            takers.setdefault(name, []).append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0][::-1]
    while ready:
        node = nodes[ready.pop()]
        yield node
        for output in node.output:
            for index in takers.get(output, ()):
                waiting[index] -= 1
                if waiting[index] == 0:
                    ready.append(index)
