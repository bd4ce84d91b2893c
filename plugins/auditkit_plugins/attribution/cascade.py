"""Cascading randomisation: a network whose weights become random, from the last layer to the first."""

from __future__ import annotations

import copy
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from auditkit import Differentiable, ExecutionError, watch_operations

__all__ = ["randomised", "weights_in_order"]


def randomised(model: Differentiable, like: Tensor, stages: Sequence[int], seed: int) -> Iterator[Differentiable]:
    """Yield a copy of the model for each stage: with so many of its last layers random, 0 for none.

    A layer is a weight of two or more dimensions. It is replaced by normal numbers of the same standard deviation,
    which depend on the seed and its name alone. Every copy is the same network, changed further: use it before you ask
    for the next.

    Args:
        model: it is not changed.
        like: images (N, C, H, W); their size and device count, not what they show.
        stages: not descending, the largest at most the number of layers.
        seed: of the random weights.

    Raises:
        ExecutionError: the network cannot be copied.
    """
    model = replace(model, network=_copied(model.network))
    layers = weights_in_order(model, like)
    done = 0
    for stage in stages:
        for name, weight in layers[len(layers) - stage : len(layers) - done]:
            _randomise(weight, name, seed)
        done = stage
        yield model


def weights_in_order(model: Differentiable, like: Tensor) -> list[tuple[str, Tensor]]:
    """Return the weights of two or more dimensions with their names, in the order in which a forward pass uses them.

    Weights are parameters; a network without any, such as a twin, has its constants instead. `like` is as for
    `randomised`.

    Raises:
        ExecutionError: there are none.
    """
    network = model.network
    named: dict[str, Tensor] = {**dict(network.named_parameters())} or dict(network.named_buffers())
    kept = {weight.data_ptr(): (name, weight) for name, weight in named.items() if _is_layer(weight)}
    used: dict[int, tuple[str, Tensor]] = {}

    def observe(operation: str, arguments: Sequence[Any], result: object) -> None:
        for tensor in _tensors(arguments):
            if tensor.data_ptr() in kept:
                used.setdefault(tensor.data_ptr(), kept[tensor.data_ptr()])

    with torch.no_grad(), watch_operations(observe):
        model.in_batches(model.forward, torch.zeros_like(like[:1]))
    if not used:
        raise ExecutionError("the network has no weights that could be replaced: they are part of its code")
    return list(used.values())


def _is_layer(weight: Tensor) -> bool:
    """Tell weights from biases, scales and constants, also those that are shaped (1, C, 1, 1) to fit images."""
    several = sum(length > 1 for length in weight.shape) >= 2
    return several and weight.is_floating_point() and bool(weight.isfinite().all())


def _tensors(arguments: Sequence[Any]) -> Iterator[Tensor]:
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, list | tuple):
            yield from _tensors(argument)


def _randomise(weight: Tensor, name: str, seed: int) -> None:
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    # On the host, so that every device gets the same numbers.
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    numbers = torch.randn(weight.shape, generator=generator)
    with torch.no_grad():
        weight.copy_(numbers * float(weight.detach().double().std()))


def _copied(network: nn.Module) -> Any:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # Copying an exported program warns of torch's own doings.
            warnings.simplefilter("ignore")
            return copy.deepcopy(network)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ExecutionError(f"the network cannot be copied, so its weights stay ({lines[0][:200]})") from error
