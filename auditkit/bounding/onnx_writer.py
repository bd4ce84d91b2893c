"""Writes bounds into an ONNX graph: Clip for a layer, Min for channels, and a line with a slope beyond."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from torch import Tensor

from auditkit.bounding.onnx_sites import OnnxSite, clip_limit, constants_of
from auditkit.errors import ExecutionError

__all__ = ["Writer"]

# The opsets in which Clip learned of types, arithmetic and Min to broadcast, and limits of Clip became inputs.
_CLIP = 6
_ARITHMETIC_BROADCASTS = 7
_MIN_BROADCASTS = 8
_CLIP_BY_INPUTS = 11


class Writer:
    """Changes one graph; `finish` puts everything in place."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.constants: list[onnx.NodeProto] = []
        self.behind: dict[int, list[onnx.NodeProto]] = {}
        self.known = constants_of(model)
        self.names = {name for node in self.nodes for name in (*node.input, *node.output)}
        self.names |= set(self.known) | {value.name for value in model.graph.input}
        self.opset = max((known.version for known in model.opset_import if known.domain in ("", "ai.onnx")), default=1)

    def bound(self, site: OnnxSite, bound: Tensor, overflow_slope: float) -> None:
        """Bound a site, whose output keeps its name.

        Raises:
            ExecutionError: the opset of the graph is too old for such a bound.
        """
        node = self.nodes[site.place]
        needed = _MIN_BROADCASTS if bound.dim() else _ARITHMETIC_BROADCASTS if overflow_slope else _CLIP
        if self.opset < needed:
            raise ExecutionError(f"the graph has opset {self.opset}; such a bound needs {needed} or newer")
        limit = _rounded_up(bound, site)
        if node.op_type == "Clip" and not bound.dim() and not overflow_slope:
            self._lower(node, limit)
            return
        result = node.output[0]
        node.output[0] = values = self._name(f"{result}_unbounded")
        if not overflow_slope:
            self.behind[site.place] = [self._capped(values, limit, result)]
            return
        capped, excess, beyond, sloped = (
            self._name(f"{result}_{part}") for part in ("capped", "excess", "beyond", "sloped")
        )
        slope = np.asarray(overflow_slope, dtype=limit.dtype)
        self.behind[site.place] = [
            self._capped(values, limit, capped),
            helper.make_node("Sub", [values, self._constant(f"{result}_bound", limit)], [excess]),
            helper.make_node("Relu", [excess], [beyond]),
            helper.make_node("Mul", [beyond, self._constant(f"{result}_slope", slope)], [sloped]),
            helper.make_node("Add", [capped, sloped], [result]),
        ]

    def finish(self) -> None:
        """Write everything into the graph."""
        nodes = [part for place, node in enumerate(self.nodes) for part in (node, *self.behind.get(place, []))]
        del self.model.graph.node[:]
        self.model.graph.node.extend([*self.constants, *nodes])

    def _capped(self, values: str, limit: npt.NDArray[Any], result: str) -> onnx.NodeProto:
        if limit.ndim:
            return helper.make_node("Min", [values, self._constant(f"{result}_bound", limit)], [result])
        if self.opset < _CLIP_BY_INPUTS:
            return helper.make_node("Clip", [values], [result], max=float(limit))
        return helper.make_node("Clip", [values, "", self._constant(f"{result}_bound", limit)], [result])

    def _lower(self, node: onnx.NodeProto, limit: npt.NDArray[Any]) -> None:
        """Lower the upper limit of a Clip, which is never raised."""
        before = clip_limit(node, "max", 2, self.known)
        limit = np.minimum(limit, np.asarray(math.inf if before is None else before, dtype=limit.dtype))
        if self.opset < _CLIP_BY_INPUTS:
            kept = [attribute for attribute in node.attribute if attribute.name != "max"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("max", float(limit))])
            return
        inputs = [*node.input[:2], *[""] * (2 - len(node.input)), self._constant(f"{node.output[0]}_bound", limit)]
        del node.input[:]
        node.input.extend(inputs)

    def _constant(self, name: str, value: npt.NDArray[Any]) -> str:
        name = self._name(name)
        self.constants.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name)))
        return name

    def _name(self, wanted: str) -> str:
        while wanted in self.names:
            wanted += "_"
        self.names.add(wanted)
        return wanted


def _rounded_up(bound: Tensor, site: OnnxSite) -> npt.NDArray[Any]:
    """Return the bound in the type of the values, never smaller than it was, in a shape that broadcasts."""
    exact = bound.detach().cpu().double().numpy()
    limit = exact.astype(site.dtype)
    limit = np.where(limit.astype(np.float64) < exact, np.nextafter(limit, limit.dtype.type(np.inf)), limit)
    limit = limit.astype(site.dtype)
    if limit.ndim and site.site.channel_axis == 1:
        limit = limit.reshape(1, -1, *[1] * (len(site.site.shape) - 1))
    return limit
