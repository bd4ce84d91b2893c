"""Sites in an ONNX graph, and rectifiers that a quantiser hid in the range of its integers made visible again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper

from auditkit.bounding.sites import Site
from auditkit.errors import ExecutionError

__all__ = [
    "OnnxSite",
    "clip_limit",
    "constants_of",
    "onnx_sites",
    "refuse_hidden_activations",
    "with_visible_rectifiers",
]

_RECTIFIERS = {"Relu": "relu", "LeakyRelu": "leaky_relu", "PRelu": "prelu", "HardSwish": "hardswish"}
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")
_PLAIN_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True)
class OnnxSite:
    """A rectifier in an ONNX graph."""

    place: int
    """The place of its node in the graph."""
    site: Site
    """Lengths that shape inference does not know are 0 in its shape."""
    has_shape: bool
    """Whether shape inference knows the number of dimensions."""
    dtype: Any
    """numpy's type of the values."""


def onnx_sites(model: onnx.ModelProto) -> list[OnnxSite]:
    """Return the sites of a graph in the order of its nodes, which is an order of execution.

    A Relu, LeakyRelu, PRelu or HardSwish is one, and a Clip from 0 behind the first operator that has weights.
    """
    kinds = _value_types(model)
    constants = constants_of(model)
    found = []
    weighted = False
    for place, node in enumerate(model.graph.node):
        weighted = weighted or node.op_type in _WEIGHTED
        operation = _RECTIFIERS.get(node.op_type)
        if operation is None and weighted and node.op_type == "Clip" and clip_limit(node, "min", 1, constants) == 0:
            operation = "clamp"
        if operation is not None and node.domain in _PLAIN_DOMAINS:
            found.append(_site(place, node, operation, kinds))
    return found


def _site(place: int, node: onnx.NodeProto, operation: str, kinds: Mapping[str, onnx.TypeProto.Tensor]) -> OnnxSite:
    kind = kinds.get(node.output[0]) or kinds.get(node.input[0]) or onnx.TypeProto.Tensor()
    shape = tuple(dim.dim_value for dim in kind.shape.dim[1:])
    site = Site(node.name or node.output[0], operation, shape)
    element = kind.elem_type or onnx.TensorProto.FLOAT
    return OnnxSite(place, site, kind.HasField("shape"), helper.tensor_dtype_to_np_dtype(element))


def _value_types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:
        # A graph that inference cannot read, or hold (2 GiB), can still be bounded a layer.
        graph = model.graph
    return {value.name: value.type.tensor_type for value in [*graph.input, *graph.value_info, *graph.output]}


def constants_of(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the initializers and constants of a graph, by name."""
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
        elif node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value_float":
            found[node.output[0]] = numpy_helper.from_array(np.asarray(node.attribute[0].f, dtype=np.float32))
    return found


def clip_limit(node: onnx.NodeProto, name: str, place: int, constants: Mapping[str, onnx.TensorProto]) -> float | None:
    """Return the limit of a Clip, an attribute or else the input at this place; None where none is known."""
    for attribute in node.attribute:
        if attribute.name == name:
            return float(attribute.f)
    given = node.input[place] if len(node.input) > place else ""
    return float(numpy_helper.to_array(constants[given]).reshape(-1)[0]) if given in constants else None


def refuse_hidden_activations(model: onnx.ModelProto) -> None:
    """Refuse a graph whose activations cannot be reached.

    Raises:
        ExecutionError: activations are part of fused or integer operators, or lie in a branch or loop.
    """
    for node in model.graph.node:
        where = f"node {node.name or node.output[0]} ({node.op_type})"
        if node.op_type.startswith(("QLinear", "QGemm")) or node.op_type.endswith("Integer"):
            raise ExecutionError(
                f"{where} computes with integers, its activation included; quantise with QuantizeLinear and "
                "DequantizeLinear pairs (QDQ), or bound the float model first"
            )
        if node.op_type.startswith("Fused") or node.op_type.startswith("NhwcFused"):
            raise ExecutionError(f"{where} has its activation inside; save the model before onnxruntime optimises it")
        inner = [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]
        if any(other.op_type in (*_RECTIFIERS, "Clip") for graph in inner for other in graph.node):
            raise ExecutionError(f"{where} has rectifiers in a branch; wanted all of them in the main graph")


def with_visible_rectifiers(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which every rectifier is a node of the main graph; it computes the same.

    Local functions are inlined. A quantiser leaves a Relu out where its integers begin at zero: there the copy has a
    Relu before the QuantizeLinear, which changes nothing, and can be bounded.
    """
    visible = onnx.ModelProto()
    visible.CopyFrom(inliner.inline_local_functions(model) if model.functions else model)
    makers = {name: node for node in visible.graph.node for name in node.output}
    constants = constants_of(visible)
    nodes: list[onnx.NodeProto] = []
    rectified: dict[str, str] = {}
    for node in visible.graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        if maker is not None and maker.op_type in (*_WEIGHTED, "Add", "Sum") and _begins_at_zero(node, constants):
            source = node.input[0]
            if source not in rectified:
                rectified[source] = f"{source}_rectified"
                nodes.append(helper.make_node("Relu", [source], [rectified[source]], name=rectified[source]))
            node.input[0] = rectified[source]
        nodes.append(node)
    del visible.graph.node[:]
    visible.graph.node.extend(nodes)
    return visible


def _begins_at_zero(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """Tell whether the smallest integer of a QuantizeLinear stands for zero; that of bytes does by default."""
    if len(node.input) < 3 or not node.input[2]:
        kinds = [attribute.i for attribute in node.attribute if attribute.name == "output_dtype" and attribute.i]
        return not kinds or kinds == [onnx.TensorProto.UINT8]
    tensor = constants.get(node.input[2])
    if tensor is None:
        return False
    zero = numpy_helper.to_array(tensor)
    return zero.dtype.kind in "iu" and bool((zero == np.iinfo(zero.dtype).min).all())
