"""Which layer Grad-CAM looks at, and its activations in a forward pass: for modules, scripts, programs and twins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from auditkit import Differentiable, ExecutionError, Streams, watch_operations
from auditkit_plugins.attribution.layout import Channels, Layout, layout_of

__all__ = ["Layer", "activation", "find_layer"]

_UNITS = ("relu", "leaky_relu", "elu", "gelu", "silu", "mish", "hardswish", "hardtanh", "threshold")
_OPERATIONS: Mapping[str, Channels | None] = MappingProxyType(
    {
        **{f"aten.{name}{in_place}": None for name in _UNITS for in_place in ("", "_")},
        **dict.fromkeys(("aten._prelu_kernel", "aten.softplus"), None),
        **dict.fromkeys(("aten.convolution", "aten._convolution"), "first"),
        "aten.native_layer_norm": "last",
        # Blocks of a transformer end in a sum, and so do layer norms in graphs that spell them out.
        **dict.fromkeys(("aten.add", "aten.add_"), "tokens"),
    }
)
"""What a layer may be made of, and how its channels lie; None: as the shape tells."""

_PROBES = 2


@dataclass(frozen=True)
class Layer:
    """A layer whose activation lies on the image."""

    name: str
    """As the reader is told."""
    layout: Layout
    module: str | None
    """The qualified name of the module that returns it; None: it is an operation."""
    number: int
    """Which of the operations of a forward pass that a layer may be made of, or which call of the module; from 0."""
    rows: int | None
    """How many images the network computes at a time, where it takes a batch apart."""

    def fitted(self, model: Differentiable) -> Differentiable:
        """Return the model with batches that the network computes in one piece."""
        if self.rows is None:
            return model
        return replace(model, batching=replace(model.batching, minimum=self.rows, fixed=self.rows))


@dataclass(frozen=True)
class _Seen:
    """A tensor of a forward pass that may be a layer's activation."""

    name: str
    values: Tensor
    channels: Channels | None


def find_layer(model: Differentiable, like: Tensor, name: str | None = None) -> Layer:
    """Return the layer to look at: the last that lies on the image, or the module of that name.

    Looked at is what activation functions (ReLU and its like), convolutions and layer norms return, and sums of tokens.
    A layer counts if the scores depend on its places: behind a vision transformer's last attention those of the
    patches are not used. The choice is made on two random images, so it does not depend on any sample.

    Args:
        model: what is explained, before its softmax.
        like: images (N, C, H, W); their size and device count, not what they show.
        name: a module's name, as `named_modules` of the user's network has it.

    Raises:
        ExecutionError: there is no such layer.
    """
    model = model.unnormalised
    module = None if name is None else _qualified(model.network, name)
    rows = model.batching.fixed or _PROBES
    streams = Streams.of(0, "grad-cam", [str(row) for row in range(rows)], like.device)
    with torch.enable_grad():
        images = streams.uniform(0, like.shape[1:]).requires_grad_(True)
        scores, seen = _operations(model, images) if module is None else _calls(model, module, images)
    for number in reversed(range(len(seen))):
        values = seen[number].values
        layout = layout_of(values.shape, like.shape[2:], seen[number].channels)
        if layout is not None and _carries(values, layout, scores):
            count = None if len(values) == rows else len(values)
            return Layer(name or seen[number].name, layout, module, number, count)
    if name is None:
        got = "this network has none"
    elif seen:
        got = f"{name} returns {tuple(seen[-1].values.shape)}"
    else:
        got = f"{name} is not called, or returns no tensor that depends on the image"
    raise ExecutionError(
        "Grad-CAM needs an activation that lies on the image, (N, C, h, w), or tokens in a grid of the image's "
        f"proportions with at most one in front; {got}"
    )


def activation(model: Differentiable, layer: Layer, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores (N, K) and the layer's activation in the layout that it has, both leading back to `images`.

    Raises:
        ExecutionError: the network does something else than for the images that the layer was found with.
    """
    if layer.module is None:
        scores, seen = _operations(model, images, layer.number)
    else:
        scores, seen = _calls(model, layer.module, images)
        seen = seen[layer.number :][:1]
    if not seen or not seen[0].values.requires_grad or len(seen[0].values) != len(images):
        raise ExecutionError(f"Grad-CAM: the network computes {layer.name} for some images only, or in another order")
    return scores, seen[0].values


def _operations(model: Differentiable, images: Tensor, number: int | None = None) -> tuple[Tensor, list[_Seen]]:
    """Return scores, and all operations that a layer may be made of, or the one of that number."""
    seen: list[_Seen] = []
    passed: list[str] = []

    def observe(operation: str, arguments: Sequence[Any], result: Any) -> None:
        if operation not in _OPERATIONS:
            return
        kind = operation.removeprefix("aten.").strip("_").replace("_", " ")
        if number is None or number == len(passed):
            values = result[0] if isinstance(result, tuple) else result
            seen.append(_Seen(f"{kind} {passed.count(kind) + 1}", values, _OPERATIONS[operation]))
        passed.append(kind)

    with watch_operations(observe):
        scores = model.forward(images)
    return scores, seen


def _calls(model: Differentiable, module: str, images: Tensor) -> tuple[Tensor, list[_Seen]]:
    """Return scores, and what the calls of a module returned."""
    with _module_outputs(model.network, module) as outputs:
        scores = model.forward(images)
    return scores, [_Seen(module, values, None) for values in outputs]


def _carries(values: Tensor, layout: Layout, scores: Tensor) -> bool:
    """Tell whether the first image's scores depend on its own places of the activation, and on no other image's."""
    if not values.requires_grad:
        return False
    own = scores[0]
    weights = torch.linspace(1, 2, len(own), dtype=own.dtype, device=own.device)
    (slope,) = torch.autograd.grad((own * weights).sum(), values, retain_graph=True, allow_unused=True)
    if slope is None:
        return False
    return bool((layout.spatial(slope)[0] != 0).any()) and not bool((slope[1:] != 0).any())


def _qualified(network: nn.Module, name: str) -> str:
    """Return the name within `network` of the outermost module that ends in `name`: wrappers are not the user's."""
    known: list[str] = [qualified for qualified, _ in network.named_modules() if qualified]
    names = [qualified for qualified in known if qualified == name or qualified.endswith(f".{name}")]
    nearest = sorted(names, key=lambda qualified: qualified.count("."))[:2]
    if not nearest:
        last = ", ".join(qualified.removeprefix("network.") for qualified in known[1:][-5:])
        raise ExecutionError(f"Grad-CAM: the network has no module {name!r}; the last that it has: {last or 'none'}")
    if len(nearest) == 2 and nearest[0].count(".") == nearest[1].count("."):
        raise ExecutionError(f"Grad-CAM: several modules are called {name!r}; wanted a full name such as {nearest[0]}")
    return nearest[0]


@contextmanager
def _module_outputs(network: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """Collect what a module returns, once a call; its hook is removed whatever happens."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(first, Tensor) or not first.requires_grad:
            return None
        outputs.append(first)
        # The network goes on with a copy: what it changes in place is then not what was returned.
        copied = first.clone()
        return copied if first is output else type(output)([copied, *output[1:]])

    watched = network.get_submodule(name)
    if isinstance(watched, torch.jit.ScriptModule):
        raise ExecutionError(f"Grad-CAM: {name} is inside TorchScript and cannot be watched; leave the layer out")
    handle = watched.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()
