"""Sites in a torch.fx graph: modules that are put behind the rectifiers, so that the result is an ordinary network."""

from __future__ import annotations

import copy
import functools
import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from auditkit.bounding.sites import (
    Site,
    is_rectifier_class,
    is_weighted,
    numbered,
    rectifier,
    site_name,
    works_in_place,
)

__all__ = ["GraphSite", "as_site", "graph_of", "put_behind", "sharing_weights", "sites_in_graph", "values_at"]

_ONNX_RECTIFIERS = {"Relu": "relu", "LeakyRelu": "leaky_relu", "PRelu": "prelu", "HardSwish": "hardswish"}
_ONNX_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")


def graph_of(network: nn.Module) -> fx.GraphModule | None:
    """Return the network, in evaluation mode, as a graph; None where its control flow depends on the image.

    The graph shares the modules of the network; a network that is a graph already is copied.
    """
    if isinstance(network, fx.GraphModule):
        return copy.deepcopy(network)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return fx.symbolic_trace(network)
    except Exception:
        # Whatever the user's code raises when it is run with placeholders: it cannot be traced.
        return None


def sharing_weights(module: fx.GraphModule) -> fx.GraphModule:
    """Return the network with a graph of its own; the modules and weights are the same objects."""
    return fx.GraphModule(module, copy.deepcopy(module.graph))


@dataclass(frozen=True)
class GraphSite:
    """A rectifier in a graph."""

    node: fx.Node
    name: str
    operation: str
    in_place: bool


def sites_in_graph(module: fx.GraphModule) -> list[GraphSite]:
    """Return the sites of a graph in order of execution."""
    found: list[GraphSite] = []
    weighted = False
    for node in module.graph.nodes:
        weighted = weighted or _is_weighted(module, node)
        call = _rectifier(module, node, weighted)
        if call is not None:
            operation, in_place = call
            found.append(GraphSite(node, _name(node, operation), operation, in_place))
    names = numbered([site.name for site in found])
    return [replace(site, name=name) for site, name in zip(found, names, strict=True)]


def _is_weighted(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return next(module.get_submodule(str(node.target)).parameters(), None) is not None
    if node.meta.get("onnx_op_type") in _ONNX_WEIGHTED:
        return True
    function = _function(node)
    return function is not None and is_weighted(function)


def _rectifier(module: fx.GraphModule, node: fx.Node, weighted: bool) -> tuple[str, bool] | None:
    """Return which rectifier a node is and whether it works in place, or None."""
    if node.op == "call_module":
        called = module.get_submodule(str(node.target))
        kind = type(called).__name__
        if type(called).__module__.startswith("torch.nn.") and is_rectifier_class(kind):
            return _OF_CLASS[kind], bool(getattr(called, "inplace", False))
        return None
    of_onnx = _ONNX_RECTIFIERS.get(str(node.meta.get("onnx_op_type")))
    if of_onnx is not None:
        return of_onnx, False
    function = _function(node)
    if function is None:
        return None
    args, kwargs = fx.map_arg((node.args, node.kwargs), functools.partial(_constant, module))
    operation = rectifier(function, args, kwargs, weighted)
    return None if operation is None else (operation, works_in_place(function, kwargs))


_OF_CLASS = {
    "ReLU": "relu",
    "ReLU6": "relu6",
    "LeakyReLU": "leaky_relu",
    "PReLU": "prelu",
    "RReLU": "rrelu",
    "Hardtanh": "hardtanh",
    "Hardswish": "hardswish",
}


def _function(node: fx.Node) -> Any:
    """Return the function of torch that a node calls, or None for anything else."""
    if node.op == "call_method":
        return getattr(Tensor, str(node.target), None)
    if node.op != "call_function":
        return None
    home = getattr(node.target, "__module__", None) or ""
    return node.target if home.split(".")[0] in ("torch", "_operator", "") else None


def _constant(module: fx.GraphModule, source: fx.Node) -> Any:
    """Return the value of a node that is a constant of the graph, or else the node."""
    if source.op != "get_attr":
        return source
    value: Any = module
    for part in str(source.target).split("."):
        value = getattr(value, part)
    return value


def _name(node: fx.Node, operation: str) -> str:
    if node.meta.get("onnx_name"):
        return str(node.meta["onnx_name"])
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return operation
    path, kind = list(stack.values())[-1]
    return site_name(path, kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__, operation)


def put_behind(module: fx.GraphModule, sites: Sequence[GraphSite], modules: Mapping[int, nn.Module]) -> None:
    """Put a module behind each of some sites, given by their place among `sites`: what used the values uses its output.

    Behind a rectifier in place, what later reads the tensor it wrote into reads the output of the module, too.
    """
    order = {node: place for place, node in enumerate(module.graph.nodes)}
    for place, inserted in modules.items():
        site = sites[place]
        name = f"site_{place}_" + "".join(letter if letter.isalnum() else "_" for letter in site.name)
        module.add_submodule(name, inserted)
        with module.graph.inserting_after(site.node):
            behind = module.graph.call_module(name, (site.node,))
        order[behind] = order[site.node]
        site.node.replace_all_uses_with(behind, delete_user_cb=functools.partial(operator.is_not, behind))
        if site.in_place:
            _redirect(site.node, behind, order)
    module.graph.lint()
    module.recompile()


def _redirect(node: fx.Node, behind: fx.Node, order: Mapping[fx.Node, int]) -> None:
    written = node.args[0] if node.args else node.kwargs["input"]
    if not isinstance(written, fx.Node):
        return
    for user in list(written.users):
        if user not in (node, behind) and order[user] > order[node]:
            user.replace_input_with(written, behind)


def values_at(module: fx.GraphModule, sites: Sequence[GraphSite], images: Tensor) -> list[Tensor]:
    """Return the values (N, ...) that the sites have for images (N, ...)."""
    recorder = _Recorder(module, {site.node for site in sites})
    with torch.no_grad():
        recorder.run(images)
    return [recorder.values[site.node] for site in sites]


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, wanted: set[fx.Node]) -> None:
        super().__init__(module)
        self.wanted = wanted
        self.values: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n in self.wanted:
            self.values[n] = result.detach().clone()
        return result


def as_site(site: GraphSite, values: Tensor) -> Site:
    """Return the site, given values (N, ...) that were seen there."""
    return Site(site.name, site.operation, tuple(values.shape[1:]))
