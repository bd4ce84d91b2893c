"""Passes over the fx graph that onnx2fx makes: constants computed once, shapes kept off the device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from auditkit.models.onnx_operators import cast

__all__ = ["drop_unused", "fold_constants", "settle_shapes"]


def fold_constants(module: fx.GraphModule) -> None:
    """Compute once what depends on constants only: weights stored as integers or halves, computed shapes."""
    for node in list(module.graph.nodes):
        sources = node.all_input_nodes
        if node.op != "call_function" or not sources or any(source.op != "get_attr" for source in sources):
            continue
        if str(node.meta.get("onnx_op_type", "")).startswith(("Random", "Bernoulli", "Multinomial")):
            continue
        args, kwargs = fx.map_arg((node.args, node.kwargs), functools.partial(_constant, module))
        value = node.target(*args, **kwargs)
        if isinstance(value, torch.Tensor):
            name = f"folded_{node.name}"
            module.register_buffer(name, value.detach().clone())
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(module.graph.get_attr(name))
            module.graph.erase_node(node)


def _constant(module: fx.GraphModule, source: fx.Node) -> torch.Tensor:
    value: torch.Tensor = getattr(module, str(source.target))
    return value


# Which arguments of onnx2fx's functions, by ONNX operator, are shapes or positions, and may be lists.
_LISTED: dict[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1, 3),
    "Reshape": (1,),
    "Resize": (1, 2),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
    **{f"Reduce{name}": (1,) for name in ("L1", "L2", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")},
}


def settle_shapes(module: fx.GraphModule) -> None:
    """Keep arithmetic on shapes on the host and exact, wherever and in whatever type the twin computes.

    onnx2fx computes shapes with tensors. On an accelerator each would wait for the device and mix devices;
    in bfloat16 no length above 256 would be safe.
    """
    image = next(node for node in module.graph.nodes if node.op == "placeholder")
    host: set[fx.Node] = set()
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        kind = node.meta.get("onnx_op_type")
        sources = node.all_input_nodes
        if kind in ("Shape", "Size") or (sources and all(s in host or s.op == "get_attr" for s in sources)):
            host.add(node)
            if kind not in ("Shape", "Size"):
                _replace_arguments(node, functools.partial(_on_host, module))
            continue
        if node.target is cast:
            node.kwargs = {"like": image}
        places = _LISTED.get(str(kind), ())
        node.args = tuple(_listed(module, value) if place in places else value for place, value in enumerate(node.args))
        shapes = {v for place, v in enumerate(node.args) if place in places and isinstance(v, fx.Node)}
        _replace_arguments(node, functools.partial(_beside, module.graph, image, host - shapes))


def _replace_arguments(node: fx.Node, replacement: Callable[[fx.Node], Any]) -> None:
    with node.graph.inserting_before(node):
        node.args, node.kwargs = fx.map_arg((node.args, node.kwargs), replacement)


def _listed(module: fx.GraphModule, value: Any) -> Any:
    constant = isinstance(value, fx.Node) and value.op == "get_attr"
    return _constant(module, value).tolist() if constant else value


def _on_host(module: fx.GraphModule, source: fx.Node) -> fx.Node:
    if source.op != "get_attr":
        return source
    value = _constant(module, source)
    # Spelled out in the code: a buffer would follow the twin to its device and type.
    return module.graph.call_function(torch.tensor, (value.tolist(),), {"dtype": value.dtype})


def _beside(graph: fx.Graph, image: fx.Node, host: set[fx.Node], source: fx.Node) -> fx.Node:
    return graph.call_function(_moved_to, (source, image)) if source in host else source


def _moved_to(value: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return value.to(image) if value.is_floating_point() else value.to(image.device)


def drop_unused(module: fx.GraphModule) -> None:
    """Remove nodes and constants that nothing reads."""
    module.graph.eliminate_dead_code()
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in list(module.named_buffers(recurse=False)):
        if name not in used:
            delattr(module, name)
