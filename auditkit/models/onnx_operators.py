"""ONNX operators as auditkit wants them differentiated, registered with onnx2fx in a domain of our own.

onnx2fx keeps one registry for the whole process. Handlers are therefore never replaced in it: a copy of the
graph has the nodes in question moved to the domain `DOMAIN`, and only that domain is filled, once, on import.
Other users of onnx2fx in the same process, in whatever thread, see their own operators.

Quantised values stay floating point here (whole numbers in a float tensor): integers carry no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import onnx
import torch
from onnx2fx import ConversionError, register_op
from onnx2fx.graph_builder import GraphBuilder
from onnx2fx.utils.attributes import get_attributes
from onnx2fx.utils.dtype import onnx_dtype_to_torch

from auditkit.models.resize import COORDINATES, NEAREST, resize

__all__ = ["DOMAIN", "cast", "dequantize", "quantize", "quantize_dynamically", "with_own_operators"]

DOMAIN = "auditkit"

Handler: TypeAlias = Callable[[GraphBuilder, onnx.NodeProto], torch.fx.Node]


def with_own_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` whose nodes belong to `DOMAIN` where this module has an operator for them."""
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    for node in moved.graph.node:
        if node.domain in ("", "ai.onnx") and node.op_type in _HANDLERS:
            node.domain = DOMAIN
    moved.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    return moved


class _RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return torch.round(value)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0]


def _round(value: torch.Tensor) -> torch.Tensor:
    rounded: torch.Tensor = _RoundStraightThrough.apply(value)  # type: ignore[no-untyped-call]
    return rounded


def _spread(values: torch.Tensor, x: torch.Tensor, axis: int, block: int) -> torch.Tensor:
    """Make scales or zero points, one for all, one per index of `axis` or one per block of it, fit `x`."""
    if block:
        return values.repeat_interleave(block, dim=axis).narrow(axis, 0, x.shape[axis])
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.reshape(shape)


def quantize(
    x: torch.Tensor,
    scale: torch.Tensor,
    zero_point: torch.Tensor | None,
    kind: torch.dtype,
    axis: int,
    block: int,
) -> torch.Tensor:
    """Quantise like QuantizeLinear, with a straight-through gradient.

    Args:
        x: any shape, floating point.
        scale: positive; one value, or shape (length of `axis`,), or the shape of `x` with that
            axis divided by `block`.
        zero_point: the same shape as `scale`, or None for zero; its integer type decides the range.
        kind: the integer type where there is no zero point.
        axis: the axis that `scale` runs along.
        block: how many values along `axis` share a scale; 0 where scales are not blocked.

    Returns:
        The shape and type of `x`: whole numbers in the range of the integer type. The gradient passes where
        the rounded value lies in that range and is zero where it saturates.
    """
    limits = torch.iinfo(kind if zero_point is None else zero_point.dtype)
    steps = _round(x / _spread(scale, x, axis, block))
    if zero_point is not None:
        steps = steps + _spread(zero_point.to(steps.dtype), x, axis, block)
    return torch.clamp(steps, limits.min, limits.max)


def dequantize(
    x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None, axis: int, block: int
) -> torch.Tensor:
    """Undo `quantize`, like DequantizeLinear.

    Args:
        x: any shape; integers, or whole numbers as `quantize` returns them.
        scale: as for `quantize`.
        zero_point: as for `quantize`, of any type.
        axis: as for `quantize`.
        block: as for `quantize`.

    Returns:
        The shape of `x` and the type of `scale`: `(x - zero_point) * scale`.
    """
    whole = x if x.is_floating_point() else x.to(torch.int64)
    if zero_point is not None:
        whole = whole - _spread(zero_point.to(whole.dtype), x, axis, block)
    return whole.to(scale.dtype) * _spread(scale, x, axis, block)


def quantize_dynamically(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Quantise to unsigned bytes with the range of `x` itself, like DynamicQuantizeLinear.

    Args:
        x: any shape, floating point; the range is that of the whole tensor, so images of one batch share it.

    Returns:
        `x` in whole numbers 0..255 with a straight-through gradient, and the scale and the zero point, both
        of shape (), without gradient.
    """
    low, high = torch.aminmax(x.detach())
    low, high = low.clamp(max=0), high.clamp(min=0)
    span = (high - low) / 255
    scale = torch.where(span > 0, span, torch.ones_like(span))
    zero_point = torch.round(-low / scale).clamp(0, 255)
    return torch.clamp(_round(x / scale) + zero_point, 0, 255), scale, zero_point


def cast(value: torch.Tensor, kind: torch.dtype, like: torch.Tensor | None = None) -> torch.Tensor:
    """Cast like ONNX, except that floating point stays in the type the twin computes in.

    Args:
        value: any shape and type.
        kind: the type that the graph asks for.
        like: a tensor whose type stands for every floating-point type; None takes `kind` at its word.

    Returns:
        The values of `value`; floating-point input is returned as it is where floating point is asked for.
    """
    if kind.is_floating_point and value.is_floating_point():
        return value
    return value.to(kind if like is None or not kind.is_floating_point else like.dtype)


def _value(builder: GraphBuilder, node: onnx.NodeProto, place: int) -> torch.fx.Node | None:
    present = len(node.input) > place and node.input[place]
    return builder.get_value(node.input[place]) if present else None


def _quantize_linear(builder: GraphBuilder, node: onnx.NodeProto) -> torch.fx.Node:
    given = get_attributes(node)
    kind = onnx_dtype_to_torch(given.get("output_dtype", 0) or onnx.TensorProto.UINT8)
    if kind is None or kind.is_floating_point:
        raise ConversionError("its output type is not an integer type", node.name, node.op_type)
    values = [_value(builder, node, place) for place in range(3)]
    return builder.call_function(quantize, (*values, kind, given.get("axis", 1), given.get("block_size", 0)))


def _dequantize_linear(builder: GraphBuilder, node: onnx.NodeProto) -> torch.fx.Node:
    given = get_attributes(node)
    values = [_value(builder, node, place) for place in range(3)]
    return builder.call_function(dequantize, (*values, given.get("axis", 1), given.get("block_size", 0)))


def _dynamic_quantize_linear(builder: GraphBuilder, node: onnx.NodeProto) -> torch.fx.Node:
    return builder.call_function(quantize_dynamically, (_value(builder, node, 0),))


def _cast(builder: GraphBuilder, node: onnx.NodeProto) -> torch.fx.Node:
    kind = onnx_dtype_to_torch(get_attributes(node)["to"])
    if kind is None:
        raise ConversionError("it casts to a type that torch does not have", node.name, node.op_type)
    return builder.call_function(cast, (_value(builder, node, 0), kind))


def _resize(builder: GraphBuilder, node: onnx.NodeProto) -> torch.fx.Node:
    given = get_attributes(node)
    mode = given.get("mode", "nearest")
    if builder.opset_version < 11:
        scales = given.get("scales") or _value(builder, node, 1)
        sizes, coordinates, nearest = None, "asymmetric", "simple"
    else:
        scales, sizes = _value(builder, node, 2), _value(builder, node, 3)
        coordinates = given.get("coordinate_transformation_mode", "half_pixel")
        nearest = given.get("nearest_mode", "round_prefer_floor")
    _refuse_rare_resizes(node, mode, coordinates, nearest)
    cubic, outside = given.get("cubic_coeff_a", -0.75), bool(given.get("exclude_outside", 0))
    options = (given.get("axes"), mode, coordinates, nearest, cubic, outside)
    return builder.call_function(resize, (_value(builder, node, 0), scales, sizes, *options))


def _refuse_rare_resizes(node: onnx.NodeProto, mode: str, coordinates: str, nearest: str) -> None:
    given = get_attributes(node)
    policy = given.get("keep_aspect_ratio_policy", "stretch")
    for name, value, known in (
        ("mode", mode, ("nearest", "linear", "cubic")),
        ("coordinate_transformation_mode", coordinates, COORDINATES),
        ("nearest_mode", nearest, tuple(NEAREST)),
        ("antialias", given.get("antialias", 0), (0,)),
        ("keep_aspect_ratio_policy", policy, ("stretch",)),
    ):
        if value not in known:
            raise ConversionError(f"{name}={value} is not supported", node.name, node.op_type)


_HANDLERS: dict[str, Handler] = {
    "Cast": _cast,
    "DequantizeLinear": _dequantize_linear,
    "DynamicQuantizeLinear": _dynamic_quantize_linear,
    "QuantizeLinear": _quantize_linear,
    "Resize": _resize,
    "Upsample": _resize,
}
for _name, _handler in _HANDLERS.items():
    register_op(_name, _handler, domain=DOMAIN)
