"""A TorchScript network as a torch.fx graph of the same operators, weights under their names."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from auditkit.errors import ExecutionError

__all__ = ["graph_of_script"]

# What makes a number of the values in a tensor: a branch on that would depend on the image.
_READS_VALUES = ("aten::Bool", "aten::item", "aten::Int", "aten::Float", "aten::is_nonzero", "aten::tolist")


# Operators of the language rather than of tensors; what they return is decided once for all.
_PLAIN: dict[str, Callable[..., Any]] = {
    "aten::__is__": operator.is_,
    "aten::__isnot__": operator.is_not,
    "aten::__not__": operator.not_,
    "aten::format": str.format,
    "aten::len": len,
    "aten::warn": lambda *texts: None,
    "prim::dtype": operator.attrgetter("dtype"),
    "prim::device": operator.attrgetter("device"),
    "prim::layout": operator.attrgetter("layout"),
}


@dataclass
class _Value:
    """A value of the script: what it is in the graph, what it is for the example, whether it was read from pixels."""

    symbol: Any
    concrete: Any
    read: bool = False


def graph_of_script(network: torch.jit.ScriptModule, images: Tensor) -> fx.GraphModule:
    """Return the network as a graph whose parameters and buffers are copies.

    Branches and loops are followed as the script runs on images (N, ...): those that ask for a number of dimensions or
    an option are decided once for all.

    Raises:
        ExecutionError: a branch depends on the values of the image, or an operator has no counterpart.
    """
    with torch.no_grad():
        return _Walk(network, images).module()


class _Walk:
    def __init__(self, network: torch.jit.ScriptModule, images: Tensor) -> None:
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.parameters = {name for name, _ in network.named_parameters()}
        self.network = network
        self.images = images
        self.values: dict[str, _Value] = {}
        self.path = ""

    def module(self) -> fx.GraphModule:
        script: Any = self.network.inlined_graph
        own, *inputs = list(script.inputs())
        if len(inputs) != 1:
            raise ExecutionError(f"a TorchScript network with one input is wanted; this one has {len(inputs)}")
        self.values[own.debugName()] = _Value("", self.network)
        self.values[inputs[0].debugName()] = _Value(self.graph.placeholder("images"), self.images.clone())
        self.block(script.nodes())
        outputs = [self.of(output).symbol for output in script.outputs()]
        self.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        self.graph.eliminate_dead_code()
        return fx.GraphModule(self.root, self.graph)

    def of(self, value: Any) -> _Value:
        return self.values[value.debugName()]

    def block(self, nodes: Iterable[Any]) -> None:
        for node in nodes:
            results = list(node.outputs())
            kept = self.node(node, node.kind(), [self.of(value) for value in node.inputs()])
            for result, value in zip(results, kept, strict=True):
                self.values[result.debugName()] = value

    def node(self, node: Any, kind: str, inputs: list[_Value]) -> list[_Value]:
        """Return the outputs of a node, which its effects in the graph precede."""
        match kind:
            case "prim::Constant":
                return [self.constant(node.output().debugName(), node.output().toIValue())]
            case "prim::GetAttr":
                return [self.attribute(inputs[0], node.s("name"))]
            case "prim::If":
                return self.branch(node, inputs[0])
            case "prim::Loop":
                return self.loop(node, inputs)
            case "prim::ListConstruct":
                return [_joined(inputs, list)]
            case "prim::TupleConstruct":
                return [_joined(inputs, tuple)]
            case "prim::ListUnpack" | "prim::TupleUnpack":
                return [self.item(inputs[0], place) for place in range(len(inputs[0].concrete))]
            case "aten::__getitem__" | "prim::TupleIndex":
                return [self.item(inputs[0], inputs[1].concrete)]
            case "prim::unchecked_cast":
                return inputs
            case "prim::Uninitialized":
                return [_Value(None, None)]
            case "aten::append":
                inputs[0].symbol.append(inputs[1].symbol)
                inputs[0].concrete.append(inputs[1].concrete)
                return inputs[:1]
        if kind in _PLAIN:
            value = _PLAIN[kind](*(value.concrete for value in inputs))
            return [_Value(value, value, any(given.read for given in inputs))] * len(list(node.outputs()))
        return self.call(node, kind, inputs)

    def constant(self, name: str, value: Any) -> _Value:
        if isinstance(value, Tensor):
            return _Value(self.stored(name.removeprefix("self."), value), value)
        return _Value(value, value)

    def attribute(self, owner: _Value, name: str) -> _Value:
        value = getattr(owner.concrete, name)
        path = f"{owner.symbol}.{name}".lstrip(".")
        if isinstance(value, Tensor):
            return _Value(self.stored(path, value), value)
        return _Value(path if isinstance(value, nn.Module) else value, value)

    def stored(self, path: str, value: Tensor) -> fx.Node:
        """Return the node of a tensor that the graph keeps under its old name."""
        *parents, last = path.split(".")
        owner = self.root
        for parent in parents:
            if not hasattr(owner, parent):
                owner.add_module(parent, nn.Module())
            owner = getattr(owner, parent)
        if not hasattr(owner, last):
            copied = value.detach().clone()
            if path in self.parameters:
                owner.register_parameter(last, nn.Parameter(copied, requires_grad=value.requires_grad))
            else:
                owner.register_buffer(last, copied)
        node = self.graph.get_attr(path)
        node.meta["path"] = ".".join(parents)
        return node

    def item(self, value: _Value, place: Any) -> _Value:
        symbol = value.symbol
        if isinstance(symbol, fx.Node):
            symbol = self.graph.call_function(operator.getitem, (symbol, place))
        else:
            symbol = symbol[place]
        return _Value(symbol, value.concrete[place], value.read)

    def branch(self, node: Any, condition: _Value) -> list[_Value]:
        yes, no = node.blocks()
        chosen = yes if self.decided(condition) else no
        self.block(chosen.nodes())
        return [self.of(value) for value in chosen.outputs()]

    def loop(self, node: Any, inputs: list[_Value]) -> list[_Value]:
        (body,) = node.blocks()
        most, going, *carried = inputs
        counter, *names = list(body.inputs())
        for turn in range(self.decided(most)):
            if not self.decided(going):
                break
            self.values[counter.debugName()] = _Value(turn, turn)
            self.values.update({name.debugName(): value for name, value in zip(names, carried, strict=True)})
            self.block(body.nodes())
            going, *carried = [self.of(value) for value in body.outputs()]
        return carried

    def decided(self, value: _Value) -> Any:
        if value.read:
            raise ExecutionError("the TorchScript network branches on the values of the image, so it is not rewritten")
        return value.concrete

    def call(self, node: Any, kind: str, inputs: list[_Value]) -> list[_Value]:
        target = _operator(node, kind)
        names = [argument.name for argument in target._schema.arguments if argument.kwarg_only]
        symbols, concretes = _split(inputs)
        free = len(symbols) - len(names)
        by_name = dict(zip(names, concretes[free:], strict=True)), dict(zip(names, symbols[free:], strict=True))
        try:
            concrete = target(*concretes[:free], **by_name[0])
        except Exception as error:
            raise ExecutionError(f"the TorchScript network: {kind} failed ({_first_line(error)})") from error
        symbol = concrete
        if _has_node(symbols):
            symbol = self.graph.call_function(target, tuple(symbols[:free]), by_name[1])
            self.place(symbol, symbols)
        read = kind in _READS_VALUES or any(value.read for value in inputs)
        result = _Value(symbol, concrete, read and not isinstance(concrete, Tensor))
        count = len(list(node.outputs()))
        return [result] if count == 1 else [self.item(result, place) for place in range(count)]

    def place(self, node: fx.Node, symbols: list[Any]) -> None:
        """Remember the module that the node belongs to: the one that holds the last weights used."""
        for symbol in symbols:
            if isinstance(symbol, fx.Node) and symbol.meta.get("path"):
                self.path = symbol.meta["path"].rpartition(".")[0]
        node.meta["nn_module_stack"] = {"": (self.path, "")}


def _split(values: list[_Value]) -> tuple[list[Any], list[Any]]:
    return [value.symbol for value in values], [value.concrete for value in values]


def _joined(values: list[_Value], kind: type[list[Any]] | type[tuple[Any, ...]]) -> _Value:
    symbols, concretes = _split(values)
    return _Value(kind(symbols), kind(concretes), any(value.read for value in values))


def _has_node(symbols: Any) -> bool:
    if isinstance(symbols, list | tuple):
        return any(_has_node(symbol) for symbol in symbols)
    return isinstance(symbols, fx.Node)


def _operator(node: Any, kind: str) -> Any:
    """Return the overload of torch.ops that a node calls."""
    try:
        name = node.schema().split("(")[0]
        space, _, rest = name.partition("::")
        base, _, overload = rest.partition(".")
        return getattr(getattr(getattr(torch.ops, space), base), overload or "default")
    except (AttributeError, RuntimeError) as error:
        raise ExecutionError(f"the TorchScript network calls {kind}, which cannot be rewritten") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
