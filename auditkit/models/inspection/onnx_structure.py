"""The structure of a stranger's ONNX graph: names that lead somewhere, no cycles, no operators from elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx

from auditkit.errors import UsageError
from auditkit.models.inspection.text import shown

__all__ = ["MOST_NODES", "check_structure", "domains", "node_count"]

MOST_NODES = 1_000_000
"""Nodes of a graph, with the functions of the file written out at every call."""

_KNOWN_DOMAINS = (
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "ai.onnx.preview",
    "ai.onnx.preview.training",
    "ai.onnx.training",
    "com.microsoft",
    "com.microsoft.nchwc",
    "com.ms.internal.nhwc",
)
# Runs a compiled blob, out of the node or out of a file that the node names.
_FOREIGN_CODE = ("EPContext",)

Function = tuple[str, str, str]
"""Domain, name and overload."""


def check_structure(model: onnx.ModelProto, path: Path) -> None:
    """Refuse a graph that no library should have to find its way through.

    Raises:
        UsageError: an operator is of a domain that only other libraries know, or functions call themselves or grow
            without measure, or a value is made twice, by nobody, or by itself.
    """
    functions = _functions(model)
    if len(functions) < len(model.functions):
        raise UsageError(f"{path}: two of its functions have one name")
    for node in _all_nodes(model):
        _check_operator(node, functions, path)
    expanded = node_count(model, path)
    if expanded > MOST_NODES:
        raise UsageError(f"{path}: {expanded} nodes with its functions written out; auditkit takes {MOST_NODES}")
    _check_graph(model.graph, set(), path)
    for function in model.functions:
        _check_nodes(function.node, set(function.input), set(), path, f"the function {shown(function.name)}")


def _functions(model: onnx.ModelProto) -> dict[Function, onnx.FunctionProto]:
    return {(function.domain, function.name, function.overload): function for function in model.functions}


def _called(node: onnx.NodeProto) -> Function:
    return node.domain, node.op_type, node.overload


def domains(model: onnx.ModelProto) -> dict[str, int]:
    """Return how many nodes each domain of operators has; ai.onnx for the operators of the standard."""
    counts = Counter(node.domain or "ai.onnx" for node in _all_nodes(model))
    return dict(sorted(counts.items()))


def _all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    yield from _nodes_below(model.graph.node)
    for function in model.functions:
        yield from _nodes_below(function.node)


def _nodes_below(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in _subgraphs(node):
            yield from _nodes_below(graph.node)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _check_operator(node: onnx.NodeProto, functions: dict[Function, onnx.FunctionProto], path: Path) -> None:
    if _called(node) in functions:
        return
    if node.domain not in _KNOWN_DOMAINS:
        raise UsageError(
            f"{path}: the operator {shown(node.op_type)} is of the domain {shown(node.domain)}, and auditkit loads no "
            "libraries of custom operators; export the model with standard operators, or give a factory as MODEL"
        )
    if node.op_type in _FOREIGN_CODE:
        raise UsageError(
            f"{path}: the operator {shown(node.op_type)} runs code that was compiled elsewhere; give the graph itself"
        )


def node_count(model: onnx.ModelProto, path: Path) -> int:
    """Return the number of nodes once the file's own functions are written out at every call.

    Raises:
        UsageError: a function calls itself.
    """
    functions = _functions(model)
    sizes: dict[Function, int] = {}
    for start in functions:
        _measure(start, functions, sizes, path)
    return _size(model.graph.node, sizes)


def _measure(
    start: Function, functions: dict[Function, onnx.FunctionProto], sizes: dict[Function, int], path: Path
) -> None:
    """Write the size of a function and of those it calls into `sizes`, callees first and without recursion."""
    waiting, inside = [start], set()
    while waiting:
        name = waiting[-1]
        if name in sizes:
            waiting.pop()
            continue
        called = {_called(node) for node in _nodes_below(functions[name].node)} & functions.keys()
        missing = [callee for callee in called if callee not in sizes]
        if not missing:
            sizes[name] = _size(functions[name].node, sizes)
            inside.discard(name)
            waiting.pop()
        elif name in inside or name in called:
            raise UsageError(f"{path}: the function {shown(name[1])} of the file calls itself")
        else:
            inside.add(name)
            waiting += missing


def _size(nodes: Iterable[onnx.NodeProto], sizes: dict[Function, int]) -> int:
    return sum(sizes.get(_called(node), 1) for node in _nodes_below(nodes))


def _check_graph(graph: onnx.GraphProto, outer: set[str], path: Path) -> None:
    given = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    given |= {sparse.values.name for sparse in graph.sparse_initializer}
    name = f"the graph {shown(graph.name)}" if graph.name else "the graph"
    made = _check_nodes(graph.node, given, outer, path, name)
    for value in graph.output:
        if value.name not in made and value.name not in outer:
            raise UsageError(f"{path}: nothing in {name} makes its output {shown(value.name)}")


def _check_nodes(nodes: Iterable[onnx.NodeProto], given: set[str], outer: set[str], path: Path, where: str) -> set[str]:
    """Return all names of a graph or function once they were seen to be made once, and before they are used."""
    nodes = list(nodes)
    makers: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for output in filter(None, node.output):
            if output in makers or output in given:
                raise UsageError(f"{path}: {shown(output)} is made twice in {where}, last by {_named(node)}")
            makers[output] = index
    available = outer | given | makers.keys()
    used = [_used(node) for node in nodes]
    for node in nodes:
        missing = sorted(name for name in node.input if name and name not in available)
        if missing:
            raise UsageError(f"{path}: {_named(node)} in {where} takes {shown(missing[0])}, which nothing makes")
        for graph in _subgraphs(node):
            _check_graph(graph, available, path)
    _check_acyclic(nodes, [{makers[name] for name in names if name in makers} for names in used], path, where)
    return given | makers.keys()


def _used(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node takes, also those that its subgraphs take from around it."""
    names = set(filter(None, node.input))
    for graph in _subgraphs(node):
        inside = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        taken = {value.name for value in graph.output}
        for part in graph.node:
            taken |= _used(part)
            inside.update(part.output)
        names |= taken - inside
    return names


def _check_acyclic(nodes: list[onnx.NodeProto], before: list[set[int]], path: Path, where: str) -> None:
    waiting = [len(earlier) for earlier in before]
    after: list[list[int]] = [[] for _ in nodes]
    for index, earlier in enumerate(before):
        for place in earlier:
            after[place].append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    done = 0
    while ready:
        done += 1
        for index in after[ready.pop()]:
            waiting[index] -= 1
            if waiting[index] == 0:
                ready.append(index)
    if done < len(nodes):
        stuck = next(index for index, count in enumerate(waiting) if count)
        raise UsageError(f"{path}: {where} is cyclic: {_named(nodes[stuck])} waits for its own result")


def _named(node: onnx.NodeProto) -> str:
    name = node.name or next(iter(node.output), "")
    return f"the node {shown(name)} ({shown(node.op_type)})"
