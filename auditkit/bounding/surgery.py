"""A copy of a network with modules at its sites: bounds, or whatever else wants to see or change the values there.

Three ways, in this order: the TorchScript or torch.fx graph of the network is rewritten; where that is not possible,
or did not find what watching the calls found, the calls are bounded as they happen (`AtCalls`). A graph is used only if
it was seen to compute the same as the network.
"""

from __future__ import annotations

import contextlib
import copy
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, fx, nn

from auditkit.bounding.activation import UpperBound
from auditkit.bounding.calls import AtCalls, sites_by_calls
from auditkit.bounding.graph import as_site, graph_of, put_behind, sharing_weights, sites_in_graph, values_at
from auditkit.bounding.script import graph_of_script
from auditkit.bounding.sites import Site, nothing_to_bound
from auditkit.errors import ExecutionError
from auditkit.models.batching import InFixedBatches
from auditkit.models.preprocess import Preprocessed

__all__ = ["Method", "Rebuilt", "find_sites", "with_modules_at_sites"]

Method = Literal["graph", "script graph", "calls"]
_ModuleAt: TypeAlias = Callable[[Site, Tensor], nn.Module | None]

_RECTIFIES = re.compile(r"aten::(relu|leaky_relu|prelu|rrelu|hardtanh|hardswish|clamp)")
# Enough to tell a size that was baked in from one that was not.
_TRIAL_IMAGES = 3


@dataclass(frozen=True)
class Rebuilt:
    """A copy of a network, and what stands at its sites."""

    network: nn.Module
    """In evaluation mode."""
    sites: tuple[Site, ...]
    """All sites, in order of execution."""
    placed: tuple[nn.Module | None, ...]
    """The module at each site, None where there is none."""
    method: Method


def find_sites(network: nn.Module, images: Tensor) -> tuple[Site, ...]:
    """Return the sites of a network in order of execution; see `with_modules_at_sites`."""
    return with_modules_at_sites(network, images, lambda site, values: None).sites


def with_modules_at_sites(network: nn.Module, images: Tensor, module_at: _ModuleAt) -> Rebuilt:
    """Return a copy of a network in which the values of some sites pass through modules.

    Args:
        network: what takes `images` and returns a tensor; it is not changed. The copy is in evaluation mode.
        images: (N, ...), N at least 1, what the network takes; a few are run.
        module_at: returns the module for a site, given values (n, ...) that were seen there, or None for no module.

    Raises:
        NothingToBound: the network calls no rectifier.
        ExecutionError: the network cannot be copied or run, or is TorchScript that branches on its values.
    """
    images = images[:_TRIAL_IMAGES]
    return _rebuilt(network, (images, images[:1]), module_at)


def _rebuilt(network: nn.Module, trials: Sequence[Tensor], module_at: _ModuleAt) -> Rebuilt:
    """Return the copy; it and the network are compared on each of the trials, batches (n, ...) of images."""
    if isinstance(network, Preprocessed):
        inner = _rebuilt(network.network, [network.steps.inputs(images) for images in trials], module_at)
        return replace(inner, network=Preprocessed(inner.network, network.steps))
    if isinstance(network, InFixedBatches):
        filled = trials[0][torch.arange(network.size, device=trials[0].device) % len(trials[0])]
        inner = _rebuilt(network.graph, [filled], module_at)
        return replace(inner, network=InFixedBatches(inner.network, network.size))
    own = _copied(getattr(network, "_orig_mod", network))  # what torch.compile wraps
    _refuse_hidden_scripts(own)
    plan: _GraphPlan | _CallPlan
    try:
        if isinstance(own, torch.jit.ScriptModule):
            plan = _script_plan(own, trials)
        else:
            plan = _graph_plan(own, trials) or _CallPlan.of(own, trials[0])
    except ExecutionError:
        raise
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        raise ExecutionError(f"{_name(network)} failed on its images: {type(error).__name__}: {text}") from error
    if not plan.sites:
        raise nothing_to_bound(_name(network))
    placed = tuple(module_at(site, values) for site, values in zip(plan.sites, plan.values, strict=True))
    changed = plan.with_modules({place: module for place, module in enumerate(placed) if module is not None})
    return Rebuilt(_evaluating(changed), tuple(plan.sites), placed, plan.method)


def _copied(network: nn.Module) -> nn.Module:
    try:
        # Copies of TorchScript would remember what they were copied from; those of exported programs warn.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            own = copy.deepcopy(network)
    except Exception as error:
        raise ExecutionError(f"{_name(network)} cannot be copied ({type(error).__name__})") from error
    return _evaluating(own)


def _evaluating(network: nn.Module) -> nn.Module:
    with contextlib.suppress(NotImplementedError):  # an exported program has no modes
        network.eval()
    return network


def _refuse_hidden_scripts(own: nn.Module) -> None:
    if isinstance(own, torch.jit.ScriptModule):
        return
    for path, module in own.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and _RECTIFIES.search(str(module.inlined_graph)):
            raise ExecutionError(
                f"{_name(own)}: its part {path} is TorchScript, whose activations are not seen; give the whole "
                "network as TorchScript, or no part of it"
            )


def _name(network: nn.Module) -> str:
    return str(getattr(network, "original_name", type(network).__name__))


@dataclass(frozen=True)
class _CallPlan:
    """Sites that were seen when the network ran."""

    network: nn.Module
    sites: list[Site]
    values: list[Tensor]
    method: Method = "calls"

    @classmethod
    def of(cls, network: nn.Module, images: Tensor) -> _CallPlan:
        seen = sites_by_calls(network, images.clone())
        return cls(network, [site for site, _ in seen], [values for _, values in seen])

    def with_modules(self, modules: Mapping[int, nn.Module]) -> nn.Module:
        if not modules:
            # Watched, torch's own transformer layer takes another path, which rounds differently.
            return self.network
        return AtCalls(self.network, [modules.get(place, nn.Identity()) for place in range(len(self.sites))])


@dataclass(frozen=True)
class _GraphPlan:
    """Sites that were read from a graph."""

    module: fx.GraphModule
    sites: list[Site]
    values: list[Tensor]
    method: Method = "graph"

    @classmethod
    def of(cls, module: fx.GraphModule, images: Tensor, method: Method) -> _GraphPlan:
        found = sites_in_graph(module)
        values = values_at(module, found, images.clone())
        sites = [as_site(site, value) for site, value in zip(found, values, strict=True)]
        return cls(module, sites, values, method)

    def with_modules(self, modules: Mapping[int, nn.Module]) -> nn.Module:
        changed = sharing_weights(self.module)
        put_behind(changed, sites_in_graph(changed), modules)
        return changed


def _script_plan(own: torch.jit.ScriptModule, trials: Sequence[Tensor]) -> _GraphPlan:
    plan = _GraphPlan.of(graph_of_script(own, trials[0]), trials[0], "script graph")
    with torch.no_grad():
        # Not bit for bit: a script may compute several operators as one.
        pairs = [(plan.module.forward(rows.clone()), own(rows.clone())) for rows in trials]
        if not all(torch.allclose(rewritten, scores, rtol=1e-3, atol=1e-4) for rewritten, scores in pairs):
            raise ExecutionError(f"{_name(own)}: the graph of this TorchScript network does not compute the same")
    return plan


def _graph_plan(own: nn.Module, trials: Sequence[Tensor]) -> _GraphPlan | None:
    """Return the graph's sites, or None if the graph cannot be trusted.

    It must have all that watching found, and compute the same as the network, with bounds and without.
    """
    watched = _CallPlan.of(own, trials[0])
    graph = graph_of(own)
    if graph is None:
        return None
    try:
        plan = _GraphPlan.of(graph, trials[0], "graph")
        if len(plan.sites) < len(watched.sites) or not _same(graph, own, trials):
            return None
        # Only onnx2fx spells a rectifier (PReLU) in a way that watching does not see.
        if len(plan.sites) == len(watched.sites):
            return plan if _same(_tightly_bounded(plan), _tightly_bounded(watched), trials) else None
    except Exception:
        return None
    return plan


def _tightly_bounded(plan: _GraphPlan | _CallPlan) -> nn.Module:
    bounds = [values.amax().clamp(min=0) / 2 for values in plan.values]
    return plan.with_modules({place: UpperBound(bound) for place, bound in enumerate(bounds)})


def _same(first: nn.Module, second: nn.Module, trials: Sequence[Tensor]) -> bool:
    with torch.no_grad():
        # Calling forward, because calling an fx module prints a traceback before it raises.
        return all(torch.equal(first.forward(rows.clone()), second.forward(rows.clone())) for rows in trials)
