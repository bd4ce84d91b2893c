"""A forward pass as the list of its operations, each with the place in the network that it belongs to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from auditkit.models.operations import watch_operations
from auditkit.models.preprocess import Preprocessed, copied

__all__ = ["Operation", "trace", "without_fast_paths"]

_OWNS_WEIGHTS = {"convolution", "_convolution", "addmm", "mm", "linear", "native_batch_norm", "native_layer_norm"}


@dataclass(frozen=True)
class Operation:
    """One operation of a forward pass."""

    name: str
    """What is computed, such as `aten.relu_`."""
    call: int
    """How many operations of this name came before."""
    place: str
    """What the network calls the place: the path of a module, the name of an ONNX node; empty where it has no name."""
    kind: str
    """The class of the module at that place, `onnx` for a node; empty where the place is not known."""
    weights: str
    """The path of the last module before it whose weights are known."""
    arguments: Sequence[Any]
    result: Any

    @property
    def plain(self) -> str:
        """The name without namespace, the same for an operation in place and for one that is not."""
        return self.name.rpartition(".")[2].removesuffix("_")


def trace(network: Preprocessed, images: Tensor) -> list[Operation]:
    """Return the operations of a forward pass of images (N, C, H, W), in order.

    The network itself is only read: places are learned from a copy. They stay empty where it cannot be copied.
    """
    try:
        watched = copied(network)
    except Exception:
        return _watched(network, images, _Places())
    places = _Places()
    _interpret_graphs(watched, places)
    _announce_modules(watched.network, places)
    return _watched(watched, images, places)


@contextmanager
def without_fast_paths() -> Iterator[None]:
    """Let torch's transformer layers compute their activation as an operation of its own."""
    backend = torch.backends.mha
    before = backend.get_fastpath_enabled()
    backend.set_fastpath_enabled(False)
    try:
        yield
    finally:
        backend.set_fastpath_enabled(before)


class _Places(list[tuple[str, str]]):
    """The modules and nodes that are being computed, as (place, class), the innermost last."""

    @property
    def innermost(self) -> tuple[str, str]:
        return self[-1] if self else ("", "")


def _watched(network: Preprocessed, images: Tensor, places: _Places) -> list[Operation]:
    owners = {tensor.data_ptr(): name.rpartition(".")[0] for name, tensor in network.network.named_parameters()}
    operations: list[Operation] = []
    calls: Counter[str] = Counter()
    weights = ""

    def observe(name: str, arguments: Sequence[Any], result: Any) -> None:
        nonlocal weights
        operation = Operation(name, calls[name], *places.innermost, weights, tuple(arguments), result)
        calls[name] += 1
        operations.append(operation)
        if operation.plain in _OWNS_WEIGHTS:
            known = [owners.get(tensor.data_ptr()) for tensor in arguments if isinstance(tensor, Tensor)]
            weights = next(filter(None, known), weights)

    with torch.no_grad(), without_fast_paths(), watch_operations(observe):
        network(images)
    return operations


def _announce_modules(network: nn.Module, places: _Places) -> None:
    for name, module in network.named_modules():
        # Scripts take no hooks.
        if isinstance(module, torch.jit.ScriptModule | _Interpreted):
            continue

        # Where torch.compile keeps the network that it was given.
        place = name.replace("_orig_mod.", "").removesuffix("_orig_mod")

        def enter(module: nn.Module, inputs: Any, place: str = place) -> None:
            places.append((place, type(module).__name__))

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            places.pop()

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)


def _interpret_graphs(network: nn.Module, places: _Places) -> None:
    for name, child in network.named_children():
        if isinstance(child, fx.GraphModule):
            setattr(network, name, _Interpreted(child, places))
        else:
            _interpret_graphs(child, places)


class _Interpreted(nn.Module):
    """Runs a graph node by node instead of the code made from it, so that it is known which one is computed."""

    def __init__(self, graph: fx.GraphModule, places: _Places) -> None:
        super().__init__()
        self.graph = graph
        self.places = places

    def forward(self, *inputs: Tensor) -> Any:
        return _Interpreter(self.graph, self.places).run(*inputs)


class _Interpreter(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, places: _Places) -> None:
        super().__init__(graph)
        self.places = places

    def run_node(self, n: fx.Node) -> Any:
        self.places.append(_place(n))
        result = super().run_node(n)
        self.places.pop()
        return result


def _place(node: fx.Node) -> tuple[str, str]:
    """Return where a node of an ONNX twin or of an exported program comes from."""
    if name := node.meta.get("onnx_name"):
        return name, "onnx"
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return (str(stack[-1][0]), str(stack[-1][1]).rpartition(".")[2]) if stack else ("", "")
