"""The little arithmetic in a stranger's ONNX graph that says how large other values become."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["FEW", "Known", "Shape", "Shapes", "compute", "count", "small_array"]

FEW = 4096
"""Numbers of an array that is computed here at most."""

Array = np.ndarray[Any, Any]
Known = ChainMap[str, Array]
Shape = tuple[int | None, ...]
"""Lengths of axes, None where one is free."""
Shapes = ChainMap[str, Shape]


def count(shape: Shape) -> int:
    """Return how many numbers there are at least: a free length counts as 1."""
    return math.prod(1 if length is None else length for length in shape)


def small_array(tensor: onnx.TensorProto) -> Array | None:
    """Return the numbers of a tensor, None if they are many or no numbers."""
    if math.prod(tensor.dims) > FEW or tensor.data_type == onnx.TensorProto.STRING:
        return None
    try:
        return numpy_helper.to_array(tensor)
    except Exception:
        # A kind of number that numpy does not have says no size of anything.
        return None


def compute(node: onnx.NodeProto, known: Known, shapes: Shapes) -> None:
    """Note what a node makes out of constants: a shape if that is told by its inputs, the numbers if they are few."""
    output = next(iter(node.output), "")
    if node.domain not in ("", "ai.onnx") or not output:
        return
    with np.errstate(all="ignore"):
        try:
            if node.op_type in _GROWING:
                shapes[output] = _GROWING[node.op_type](node, known, shapes)
            elif output not in shapes and (node.op_type in _ELEMENTWISE or node.op_type in _ALIKE):
                shapes[output] = _broadcast([shapes[name] for name in node.input])
            elif output not in shapes and node.op_type == "Concat":
                shapes[output] = _concatenated(node, shapes)
            if count(shapes.get(output, ())) <= FEW and (array := _value(node, known, shapes)) is not None:
                known[output] = array
                shapes.setdefault(output, array.shape)
        except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError, MemoryError):
            # Inputs that do not fit the operator: nothing is known of its output.
            return


def _value(node: onnx.NodeProto, known: Known, shapes: Mapping[str, Shape]) -> Array | None:
    given = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type == "Constant":
        return _constant(given)
    if node.op_type == "Shape" and not given:
        shape = shapes[node.input[0]]
        return None if None in shape else np.array(shape, dtype=np.int64)
    if not all(name in known for name in node.input if name):
        return None
    inputs = [known[name] for name in node.input if name]
    array: Array | None = None
    if node.op_type in _ELEMENTWISE and len(inputs) == 2:
        array = np.asarray(_ELEMENTWISE[node.op_type](*inputs))
    elif node.op_type in ("Identity", "Cast"):
        array = inputs[0].astype(np.float64) if inputs[0].dtype.kind == "f" else inputs[0].astype(np.int64)
    elif node.op_type == "Concat":
        array = np.concatenate(inputs, axis=given["axis"].i)
    elif node.op_type in ("Unsqueeze", "Squeeze", "Reshape"):
        array = inputs[0].reshape(-1)
    elif node.op_type == "Gather":
        array = np.take(inputs[0], inputs[1].astype(np.int64), axis=given["axis"].i if "axis" in given else 0)
    elif node.op_type == "ReduceProd":
        array = np.asarray(math.prod(int(number) for number in inputs[0].reshape(-1))).reshape(-1)
    elif node.op_type == "ConstantOfShape":
        number = numpy_helper.to_array(given["value"].t).reshape(-1)[0] if "value" in given else 0.0
        array = np.full(_lengths(known[node.input[0]]), number)
    return array if array is not None and array.size <= FEW and array.dtype != object else None


def _constant(given: Mapping[str, onnx.AttributeProto]) -> Array | None:
    if "value" in given:
        return small_array(given["value"].t)
    for name, kind in (("value_int", np.int64), ("value_float", np.float64)):
        if name in given:
            return np.asarray(given[name].i if name == "value_int" else given[name].f, dtype=kind)
    if "value_ints" in given:
        return np.array(given["value_ints"].ints, dtype=np.int64)
    return np.array(given["value_floats"].floats) if "value_floats" in given else None


_ELEMENTWISE: dict[str, Callable[[Array, Array], Array]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": lambda one, other: one // other if one.dtype.kind in "iu" else one / other,
    "Pow": lambda one, other: np.power(one.astype(np.float64), other.astype(np.float64)),
    "Max": np.maximum,
    "Min": np.minimum,
}


_ALIKE = (
    "Identity",
    "Cast",
    "Relu",
    "Neg",
    "Abs",
    "Sqrt",
    "Exp",
    "Sigmoid",
    "Tanh",
    "Sum",
    "Where",
    "Equal",
    "Not",
    "Clip",
)


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(max(1 if length is None else length for length in lengths) for lengths in zip(*padded, strict=True))


def _concatenated(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> Shape:
    parts, axis = [shapes[name] for name in node.input], node.attribute[0].i
    whole = list(parts[0])
    whole[axis] = sum(count((part[axis],)) for part in parts)
    return tuple(whole)


def _lengths(array: Array) -> tuple[int, ...]:
    return tuple(int(length) for length in array.reshape(-1))


def _of_shape(node: onnx.NodeProto, known: Known, shapes: Mapping[str, Shape]) -> Shape:
    return _lengths(known[node.input[0]])


def _expanded(node: onnx.NodeProto, known: Known, shapes: Mapping[str, Shape]) -> Shape:
    return _broadcast([shapes[node.input[0]], _lengths(known[node.input[1]])])


def _tiled(node: onnx.NodeProto, known: Known, shapes: Mapping[str, Shape]) -> Shape:
    repeats = _lengths(known[node.input[1]])
    return tuple(count((length, times)) for length, times in zip(shapes[node.input[0]], repeats, strict=True))


def _ranged(node: onnx.NodeProto, known: Known, shapes: Mapping[str, Shape]) -> Shape:
    start, limit, step = (known[name].reshape(-1)[0].item() for name in node.input)
    return (max(math.ceil((limit - start) / step), 0),)


def _resized(node: onnx.NodeProto, known: Known, shapes: Mapping[str, Shape]) -> Shape:
    names = list(node.input)
    if len(names) > 3 and names[3]:
        return _lengths(known[names[3]])
    scales = known[names[2] if len(names) > 2 else names[1]].reshape(-1)
    return tuple(int(count((length,)) * scale) for length, scale in zip(shapes[names[0]], scales, strict=True))


def _padded(node: onnx.NodeProto, known: Known, shapes: Mapping[str, Shape]) -> Shape:
    pads, shape = _lengths(known[node.input[1]]), shapes[node.input[0]]
    rank = len(shape)
    return tuple(count((length,)) + pads[axis] + pads[axis + rank] for axis, length in enumerate(shape))


def _one_hot(node: onnx.NodeProto, known: Known, shapes: Mapping[str, Shape]) -> Shape:
    return (*shapes[node.input[0]], int(known[node.input[1]].reshape(-1)[0]))


_GROWING: dict[str, Callable[[onnx.NodeProto, Known, Mapping[str, Shape]], Shape]] = {
    "ConstantOfShape": _of_shape,
    "Expand": _expanded,
    "Tile": _tiled,
    "Range": _ranged,
    "Resize": _resized,
    "Upsample": _resized,
    "Pad": _padded,
    "OneHot": _one_hot,
}
