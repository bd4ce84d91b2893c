"""What each node of a network's graph looks at: one place, the places around it, or who knows what."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from auditkit.covers.boxes import Reach

__all__ = ["Layer", "as_layer", "is_pointwise", "keeps_to_itself"]

Modules = Mapping[str, nn.Module]

_POINTWISE_MODULES = frozenset(
    {
        nn.BatchNorm2d,
        nn.Dropout,
        nn.ELU,
        nn.GELU,
        nn.Hardsigmoid,
        nn.Hardswish,
        nn.Hardtanh,
        nn.Identity,
        nn.LeakyReLU,
        nn.ReLU,
        nn.ReLU6,
        nn.SiLU,
        nn.Sigmoid,
        nn.Tanh,
    }
)
_POINTWISE_FUNCTIONS = frozenset(
    {
        functional.elu,
        functional.gelu,
        functional.hardswish,
        functional.leaky_relu,
        functional.relu,
        functional.relu6,
        functional.silu,
        operator.add,
        operator.mul,
        operator.sub,
        operator.truediv,
        torch.add,
        torch.clamp,
        torch.div,
        torch.mul,
        torch.relu,
        torch.sigmoid,
        torch.sub,
        torch.tanh,
    }
)
# Their results are nobody else's memory.
_FRESH_MODULES = frozenset({nn.AvgPool2d, nn.BatchNorm2d, nn.Conv2d, nn.Linear, nn.MaxPool2d})
_FRESH_FUNCTIONS = frozenset({operator.add, torch.add})
_MUTATING = frozenset({"setitem", "iadd", "imul", "isub", "itruediv"})


@dataclass(frozen=True)
class Layer:
    """A convolution or a pooling, as a function of inputs (B, C, h, w) that are padded already."""

    down: Reach
    across: Reach
    compute: Callable[[Tensor], Tensor]
    outside: float
    """What it takes for granted beyond the edges."""

    def pad(self, maps: Tensor) -> Tensor:
        """Return maps (N, C, H, W) with what lies beyond the edges, and the margins of both reaches."""
        down, across = (reach.padding + reach.margin for reach in (self.down, self.across))
        return functional.pad(maps, (across, across, down, down), value=self.outside)


def as_layer(node: fx.Node, modules: Modules) -> Layer | None:
    """Return a node that looks at the places around each, None for another node."""
    if node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    module = modules[str(node.target)]
    if _is_hooked(module):
        return None
    if type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str):
        convolve = partial(
            functional.conv2d,
            weight=module.weight,
            bias=module.bias,
            stride=module.stride,
            dilation=module.dilation,
            groups=module.groups,
        )
        reaches = _reaches(module.kernel_size, module.stride, module.padding, module.dilation)
        return Layer(*reaches, convolve, 0.0)
    if type(module) is nn.MaxPool2d and not module.ceil_mode and not module.return_indices:
        pool = partial(
            functional.max_pool2d, kernel_size=module.kernel_size, stride=module.stride, dilation=module.dilation
        )
        reaches = _reaches(module.kernel_size, module.stride, module.padding, module.dilation)
        return Layer(*reaches, pool, -torch.inf)
    return None


def is_pointwise(node: fx.Node, root: fx.GraphModule, modules: Modules) -> bool:
    """Tell whether a node computes each place from the same place of its inputs, and by the same rule everywhere."""
    if node.op == "call_module":
        module = modules[str(node.target)]
        known = type(module) in _POINTWISE_MODULES and not module.training and not _is_hooked(module)
    else:
        known = node.op == "call_function" and node.target in _POINTWISE_FUNCTIONS
    constants = (str(source.target) for source in node.all_input_nodes if source.op == "get_attr")
    return known and all(_is_same_everywhere(root, name) for name in constants)


def keeps_to_itself(node: fx.Node, modules: Modules) -> bool:
    """Tell whether a node changes no tensor that another one reads."""
    if node.op == "call_module":
        mutates = bool(getattr(modules[str(node.target)], "inplace", False))
    else:
        name = str(getattr(node.target, "__name__", node.target))
        in_place = name.endswith("_") or name in _MUTATING or bool(node.kwargs.get("inplace")) or "out" in node.kwargs
        mutates = node.op in ("call_function", "call_method") and in_place
    if not mutates:
        return True
    source = node.args[0] if node.args else None
    if not isinstance(source, fx.Node) or len(source.users) != 1:
        return False
    if source.op == "call_module":
        return type(modules[str(source.target)]) in _FRESH_MODULES
    return source.op == "call_function" and source.target in _FRESH_FUNCTIONS


def _reaches(*sizes: int | tuple[int, ...]) -> tuple[Reach, Reach]:
    """Return the reaches down and across, from kernel, stride, padding and dilation."""
    pairs = [(size, size) if isinstance(size, int) else size for size in sizes]
    return Reach(*(pair[0] for pair in pairs)), Reach(*(pair[1] for pair in pairs))


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _is_same_everywhere(root: fx.GraphModule, name: str) -> bool:
    value = operator.attrgetter(name)(root)
    return isinstance(value, Tensor) and (value.numel() == 1 or value.shape[-2:] == (1, 1))
