"""An ONNX graph with bounded activations, for verdicts from onnxruntime: `bounded_onnx`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from torch import Tensor, nn

from auditkit.bounding.activation import Overflow, overflow_slope
from auditkit.bounding.bounded_copy import Bound, checked_bound, checked_count, is_free
from auditkit.bounding.onnx_sites import OnnxSite, onnx_sites, refuse_hidden_activations, with_visible_rectifiers
from auditkit.bounding.onnx_writer import Writer
from auditkit.bounding.sites import Site, nothing_to_bound
from auditkit.errors import ExecutionError
from auditkit.models.twin import differentiable_twin

__all__ = ["BoundedOnnx", "bounded_onnx", "find_onnx_sites", "onnx_twin_with_sites"]


@dataclass(frozen=True)
class BoundedOnnx:
    """A copy of a graph with bounds, and where they are."""

    model: onnx.ModelProto
    sites: tuple[Site, ...]
    """All sites that were found, in order of execution."""
    is_bounded: tuple[bool, ...]
    """Whether there is a bound at each site."""

    def summary(self) -> str:
        """Return how many sites were found and bounded, as a clause for people."""
        return f"{sum(self.is_bounded)} of {len(self.sites)} sites bounded (ONNX graph)"


def find_onnx_sites(model: onnx.ModelProto) -> tuple[Site, ...]:
    """Return the sites of a graph in order of execution, which is that of its torch twin and of the network exported.

    Raises:
        NothingToBound: there are none.
        ExecutionError: the activations are inside fused or integer operators, or in branches.
    """
    return tuple(found.site for found in _found(with_visible_rectifiers(model)))


def onnx_twin_with_sites(model: onnx.ModelProto) -> nn.Module:
    """Return the torch twin of a graph with the same sites, to calibrate and train bounds for `bounded_onnx` on.

    It differs from the plain twin for quantised graphs only, where that has no rectifiers to see.

    Raises:
        TwinError: there is no twin.
    """
    return differentiable_twin(with_visible_rectifiers(model))


def bounded_onnx(
    model: onnx.ModelProto, bounds: Sequence[Bound], overflow: Overflow = "fold", slope: float = 0.01
) -> BoundedOnnx:
    """Return a copy of a graph whose rectifiers are bounded from above: the same function as `bounded_copy`.

    Args:
        model: a float graph, or one quantised by pairs of QuantizeLinear and DequantizeLinear; it is not changed.
        bounds: one for each site, in order of execution (`find_onnx_sites`).
        overflow: what happens beyond the bound.
        slope: the size of the slope there.

    Raises:
        UsageError: the bounds do not fit the sites.
        NothingToBound: there are no sites.
        ExecutionError: the graph cannot be bounded: its activations are inside other operators, its opset is too old
            for these bounds, or it states no shape where a bound a channel needs one.
    """
    beyond = overflow_slope(overflow, slope)
    changed = with_visible_rectifiers(model)
    found = _found(changed)
    checked_count([site.site for site in found], bounds)
    writer = Writer(changed)
    bounded = [not is_free(bound) for bound in bounds]
    for site, bound in zip(found, bounds, strict=True):
        if bound is not None and not is_free(bound):
            writer.bound(site, _checked(site, bound), beyond)
    writer.finish()
    try:
        onnx.checker.check_model(changed)
    except onnx.checker.ValidationError as error:
        raise ExecutionError(f"the bounded graph is not valid ONNX ({str(error).strip().splitlines()[0]})") from error
    return BoundedOnnx(changed, tuple(site.site for site in found), tuple(bounded))


def _found(visible: onnx.ModelProto) -> list[OnnxSite]:
    refuse_hidden_activations(visible)
    found = onnx_sites(visible)
    if not found:
        raise nothing_to_bound(visible.graph.name or "the ONNX graph")
    return found


def _checked(site: OnnxSite, bound: float | Tensor) -> Tensor:
    if not site.has_shape and isinstance(bound, Tensor) and bound.dim():
        raise ExecutionError(f"node {site.site.name}: the graph states no shape, which a bound a channel needs")
    return checked_bound(site.site, bound)
