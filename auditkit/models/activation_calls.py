"""Which operations of a forward pass give activations: nonlinear functions, element by element, behind learned weights.

What counts, and why:

- The nonlinear layers of `torch.nn`, as modules, functions or methods, in place or not, are one operation each.
- A clamp from below at zero is a ReLU by another name, unless no weights came before: then it clips the image itself.
- A quantised network has no ReLU left: the quantiser cuts off what is negative. It counts where it does, after the
  result was made floating point again.
- Exported networks often spell GELU, SiLU and Hardswish as a product of the input and a gate. The product counts, the
  gate does not.
- Pooling does not count: it picks or averages activations that counted before. Nor does softmax: what it returns is
  relative to the other values by definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit.models.trace import Operation

__all__ = ["CONVOLUTIONS", "WEIGHTED", "ActivationCall", "activation_calls"]

_SIGNED = {"leaky_relu", "elu", "celu", "gelu", "silu", "hardswish", "mish", "_prelu_kernel", "rrelu_with_noise"}
_SIGNED |= {"tanh", "hardtanh", "threshold", "glu", "softshrink", "hardshrink", "log_sigmoid_forward"}
_NOT_NEGATIVE = {"relu", "sigmoid", "hardsigmoid", "softplus"}
_NAMES = {"_prelu_kernel": "prelu", "rrelu_with_noise": "rrelu", "log_sigmoid_forward": "log_sigmoid"}
_CLAMPS = {"clamp", "clamp_min"}
_HARDTANH = (-1.0, 1.0)
# The product with its own input, and whether one is added to it before.
_GATES = {"sigmoid": ("silu", False), "hardsigmoid": ("hardswish", False), "clamp": ("hardswish", False)}
_GATES |= {"erf": ("gelu", True), "tanh": ("gelu", True)}
_STEPS = {"add", "sub", "mul", "div"}
# The ranges of the integers that ONNX quantises to.
_INTEGERS = {(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (4, 8, 16)} | {
    (0, 2**bits - 1) for bits in (4, 8, 16)
}

CONVOLUTIONS = {"convolution", "_convolution", "mkldnn_convolution", "cudnn_convolution"}
WEIGHTED = CONVOLUTIONS | {"addmm", "mm", "bmm", "baddbmm", "addmv", "mv", "linear", "mkldnn_linear"}


@dataclass(frozen=True)
class ActivationCall:
    """An activation: what it is called, where it begins, and the operation whose result it is."""

    function: str
    root: Operation
    value: Operation
    negative: bool
    """Whether it can lie below zero."""


def activation_calls(operations: Sequence[Operation]) -> list[ActivationCall]:
    """Return the activations among the operations of a forward pass, in order."""
    order = {id(operation): at for at, operation in enumerate(operations)}
    found = []
    weighted = False
    for at, operation in enumerate(operations):
        weighted = weighted or operation.plain in WEIGHTED
        call = _of_gate(operations, at) or _of_function(operation, weighted) or _of_quantiser(operations, at)
        if call is not None:
            found.append(call)
    return sorted(found, key=lambda call: order[id(call.value)])


def _of_function(operation: Operation, weighted: bool) -> ActivationCall | None:
    plain, arguments = operation.plain, operation.arguments
    if plain in _CLAMPS:
        low, high = _bounds(operation)
        is_relu = weighted and low == 0 and (low, high) not in _INTEGERS
        return ActivationCall("clamp", operation, operation, False) if is_relu else None
    if plain in _NOT_NEGATIVE:
        return ActivationCall(plain, operation, operation, False)
    if plain not in _SIGNED:
        return None
    negative = True
    if plain == "hardtanh":
        limits = tuple(arguments[1:3]) + _HARDTANH[len(arguments) - 1 :]
        negative = limits[0] < 0
        plain = "relu6" if limits == (0, 6) else plain
    if plain == "threshold":
        negative = min(arguments[1:3]) < 0
    return ActivationCall(_NAMES.get(plain, plain), operation, operation, negative)


def _of_gate(operations: Sequence[Operation], at: int) -> ActivationCall | None:
    """Return the product of a value and a gate that was computed from it, where the operation at `at` begins a gate."""
    root = operations[at]
    if root.plain not in _GATES or (root.plain == "clamp" and None in _bounds(root)):
        return None
    name, wants_one_added = _GATES[root.plain]
    sources = _sources(operations, at, root.arguments[0])
    gate, added = root.result, False
    for place in range(at + 1, len(operations)):
        user = operations[place]
        if not _takes(user, gate):
            continue
        if user.plain not in _STEPS:
            return None
        other = user.arguments[1] if user.arguments[0] is gate else user.arguments[0]
        if _is_number(other):
            added = added or user.plain == "add"
            gate = user.result
            continue
        same_shape = user.plain == "mul" and isinstance(other, Tensor) and other.shape == gate.shape
        if same_shape and added == wants_one_added and (wants_one_added or id(other) in sources):
            return ActivationCall(name, root, _scaled(operations, place), True)
        return None
    return None


def _sources(operations: Sequence[Operation], at: int, value: object) -> set[int]:
    """Return the identity of `value`, and of the tensors that it was made from by adding and multiplying numbers."""
    found = {id(value)}
    for operation in reversed(operations[:at]):
        if id(operation.result) in found and operation.plain in _STEPS:
            first, second = (*operation.arguments, None)[:2]
            if _is_number(second):
                found.add(id(first))
            elif _is_number(first):
                found.add(id(second))
    return found


def _scaled(operations: Sequence[Operation], at: int) -> Operation:
    """Return the operation at `at`, or the next one, if that only multiplies the result by a number."""
    product = operations[at]
    following = operations[at + 1] if at + 1 < len(operations) else None
    if following is None or following.plain not in ("mul", "div") or not _takes(following, product.result):
        return product
    other = [value for value in following.arguments[:2] if value is not product.result]
    return following if len(other) == 1 and _is_number(other[0]) else product


def _of_quantiser(operations: Sequence[Operation], at: int) -> ActivationCall | None:
    """Return the floating-point result behind a quantiser that cuts off negative values, as a ReLU would."""
    root = operations[at]
    if root.plain != "clamp" or _bounds(root) not in _INTEGERS or not isinstance(root.arguments[0], Tensor):
        return None
    low, _ = _bounds(root)
    steps = root.arguments[0]
    if low is None or not bool((steps < low).any()) or _zero_point(operations, at) != low:
        return None
    value = root
    for operation in operations[at + 1 :]:
        if not _takes(operation, value.result):
            continue
        if operation.plain == "mul":
            return ActivationCall("relu", root, operation, False)
        if operation.plain != "sub":
            return None
        value = operation
    return None


def _zero_point(operations: Sequence[Operation], at: int) -> float | None:
    """Return the number that was added before the clamp at `at`, 0 where none was, None where it is not one number."""
    steps = operations[at].arguments[0]
    for operation in reversed(operations[:at]):
        if operation.result is not steps:
            continue
        if operation.plain == "round":
            return 0.0
        if operation.plain != "add":
            return None
        added = torch.as_tensor(operation.arguments[1]).flatten()
        return float(added[0]) if bool((added == added[0]).all()) else None
    return None


def _bounds(clamp: Operation) -> tuple[float | None, float | None]:
    low, high = (*clamp.arguments[1:], None, None)[:2]
    return _number(low), _number(high)


def _number(value: object) -> float | None:
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else None
    return float(value) if isinstance(value, int | float) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)


def _takes(operation: Operation, value: object) -> bool:
    return any(argument is value for argument in operation.arguments)
