"""Rewrites of ONNX graphs: a free batch size, the scores before softmax, plain quantisation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = [
    "free_inputs",
    "input_shape",
    "with_dynamic_batch",
    "with_plain_quantization",
    "without_final_softmax",
]

BATCH = "batch"

Shape = list[int | None]


def free_inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that a caller must give: those without an initial value."""
    given = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in given]


def input_shape(value: onnx.ValueInfoProto) -> Shape:
    """Return the lengths of a value's axes, None where a length is free; empty where nothing is declared."""
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]


def with_dynamic_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that takes any number of images where the original was exported for a fixed number.

    The first axis of the inputs and of outputs that had the same length becomes symbolic, declared shapes
    in between are dropped, and constant targets of Reshape and Resize that name the old batch size are freed.
    Where the batch was free already, the copy is the same as the original. A graph with the size in other
    places may still work for the old size only.
    """
    dynamic = _copy(model)
    images = free_inputs(dynamic)
    sizes = {shape[0] if shape else None for shape in map(input_shape, images)}
    batch = sizes.pop() if len(sizes) == 1 else None
    if not batch:
        return dynamic
    shapes = _inferred_shapes(model)
    for value in [*images, *dynamic.graph.output]:
        if input_shape(value)[:1] == [batch]:
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del dynamic.graph.value_info[:]
    _free_targets(dynamic, batch, shapes, {value.name for value in images})
    return dynamic


def _free_targets(model: onnx.ModelProto, batch: int, shapes: dict[str, Shape], moving: set[str]) -> None:
    constants = _constants(model)
    added = []
    for node in model.graph.node:
        if moving.isdisjoint(node.input):
            continue
        moving.update(node.output)
        before, after = (shapes.get(name, []) for name in (node.input[0], node.output[0]))
        if node.op_type == "Reshape" and node.input[1] in constants:
            target = _free_shape(constants[node.input[1]].tolist(), batch, before, after)
            if target is not None:
                added.append(_replace_input(node, 1, np.array(target, dtype=np.int64)))
                _drop_attribute(node, "allowzero")
        elif node.op_type == "Resize" and len(node.input) > 3 and node.input[3] in constants:
            scales = _scales(constants[node.input[3]], before)
            if scales is not None:
                added.append(_replace_input(node, 2, scales))
                del node.input[3]
    for constant in added:
        model.graph.node.insert(0, constant)


def _free_shape(target: list[int], batch: int, before: Shape, after: Shape) -> list[int] | None:
    """Return a target of Reshape that fits any batch, or None where none is needed or known."""
    if not target or target[0] != batch:
        return None
    if -1 not in target[1:]:
        return [-1, *target[1:]]
    if not before or before[0] == batch:
        return [0, *target[1:]]
    rest = [length for length in after[1:] if length is not None]
    return [-1, *rest] if len(rest) == len(target) - 1 else None


def _scales(sizes: np.ndarray[Any, Any], before: Shape) -> np.ndarray[Any, Any] | None:
    """Return the factors that lead to the same sizes, which unlike these do not name the batch."""
    lengths = np.array([length or 0 for length in before], dtype=np.float32)
    if len(lengths) != len(sizes) or not lengths.all():
        return None
    scales = (sizes.astype(np.float32) / lengths).astype(np.float32)
    return scales if ((lengths * scales).astype(np.int64) == sizes).all() else None


def _replace_input(node: onnx.NodeProto, place: int, array: np.ndarray[Any, Any]) -> onnx.NodeProto:
    name = f"{node.output[0]}_for_any_batch"
    node.input[place] = name
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))


def _drop_attribute(node: onnx.NodeProto, name: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _constants(model: onnx.ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    """Return the constants of a graph that can be shapes, by name."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    lists = {}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value_ints":
            lists[node.output[0]] = np.array(node.attribute[0].ints, dtype=np.int64)
        elif node.op_type == "Constant":
            found[node.output[0]] = node.attribute[0].t
    integers = onnx.TensorProto.INT64
    shapes = {n: t for n, t in found.items() if len(t.dims) == 1 and t.data_type == integers}
    return lists | {name: numpy_helper.to_array(tensor) for name, tensor in shapes.items()}


def _inferred_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:
        # Shapes only help to choose; a graph that inference cannot read (or hold: 2 GiB) does without.
        graph = model.graph
    return {value.name: input_shape(value) for value in [*graph.input, *graph.value_info, *graph.output]}


def without_final_softmax(model: onnx.ModelProto) -> onnx.ModelProto | None:
    """Return a copy that outputs what its last Softmax or LogSoftmax was given, under the old output name.

    Gradients taken there do not vanish where the network is sure. Only operators that reshape or cast may be
    between the softmax and the output. Returns None where there is no such softmax, or several outputs.
    """
    if len(model.graph.output) != 1:
        return None
    copy = _copy(model)
    makers = {name: node for node in copy.graph.node for name in node.output}
    name = copy.graph.output[0].name
    while name in makers:
        node = makers[name]
        if sum(name in other.input for other in copy.graph.node) > 1:
            return None
        if node.op_type in ("Softmax", "LogSoftmax"):
            node.op_type = "Identity"
            del node.attribute[:]
            return copy
        if node.op_type not in ("Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast"):
            return None
        name = node.input[0]
    return None


def with_plain_quantization(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy that spells operators on integers as DequantizeLinear, float operator, QuantizeLinear.

    Covers QLinearConv, QLinearMatMul, ConvInteger and MatMulInteger, and of onnxruntime's own QLinearAdd,
    QLinearMul, QLinearGlobalAveragePool and QGemm; others stay as they are.
    """
    plain = _copy(model)
    nodes = [part for node in model.graph.node for part in _spelled(node)]
    del plain.graph.node[:]
    plain.graph.node.extend(nodes)
    return plain


def _spelled(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    names = [*node.input, *[""] * 9]
    given = {attribute.name: attribute for attribute in node.attribute}
    pair = {"QLinearAdd": "Add", "QLinearMul": "Mul"}
    if node.op_type == "QLinearConv":
        yield from _float_operator(node, "Conv", [(names[0:3], 1), (names[3:6], 0)], names[6:8], names[8])
    elif node.op_type == "QLinearMatMul":
        yield from _float_operator(node, "MatMul", [(names[0:3], -2), (names[3:6], -1)], names[6:8])
    elif node.op_type == "QGemm" and ("alpha" not in given or given["alpha"].f == 1):
        axis = 0 if "transB" in given and given["transB"].i else 1
        yield from _float_operator(node, "Gemm", [(names[0:3], 1), (names[3:6], axis)], names[7:9], names[6])
    elif node.op_type in pair:
        yield from _float_operator(node, pair[node.op_type], [(names[0:3], 1), (names[3:6], 1)], names[6:8])
    elif node.op_type == "QLinearGlobalAveragePool" and not any(flag.i for flag in node.attribute):
        yield from _float_operator(node, "GlobalAveragePool", [(names[0:3], 1)], names[3:5])
    elif node.op_type in ("ConvInteger", "MatMulInteger"):
        one = f"{node.output[0]}_one"
        yield helper.make_node("Constant", [], [one], value_float=1.0)
        axes = (1, 0) if node.op_type == "ConvInteger" else (-2, -1)
        operands = [([names[place], one, names[place + 2]], axes[place]) for place in (0, 1)]
        yield from _float_operator(node, node.op_type.removesuffix("Integer"), operands, ["", ""])
    else:
        yield node


def _float_operator(
    node: onnx.NodeProto,
    operator: str,
    operands: Sequence[tuple[Sequence[str], int]],
    result: Sequence[str],
    bias: str = "",
) -> Iterator[onnx.NodeProto]:
    """Yield `operator` on dequantised operands, quantised again where `result` (scale, zero point) says how.

    An operand is value, scale and zero point, and the axis that these run along. An integer bias carries the
    product of the scales.
    """
    output = node.output[0]
    inputs = [f"{output}_operand_{place}" for place in range(len(operands))]
    for name, (operand, axis) in zip(inputs, operands, strict=True):
        yield helper.make_node("DequantizeLinear", operand, [name], axis=axis)
    if bias:
        scale, name = f"{output}_bias_scale", f"{output}_bias"
        yield helper.make_node("Mul", [operand[1] for operand, _ in operands], [scale])
        yield helper.make_node("DequantizeLinear", [bias, scale], [name], axis=0)
        inputs.append(name)
    plain = f"{output}_plain" if result[0] else output
    body = helper.make_node(operator, inputs, [plain])
    body.attribute.extend(given for given in node.attribute if given.name != "channels_last")
    yield body
    if result[0]:
        yield helper.make_node("QuantizeLinear", [plain, *result], [output])
