"""A network as it is before the softmax that it ends in: what its scores were, before they were normalised."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from auditkit.errors import ExecutionError
from auditkit.models.base import Differentiable
from auditkit.models.batching import InFixedBatches
from auditkit.models.operations import watch_operations
from auditkit.models.preprocess import Preprocessed

__all__ = ["BeforeSoftmax", "without_softmax"]

_SOFTMAXES = ("aten._softmax", "aten._log_softmax")
_TOLERANCE = 1e-3
_LEAST = 1e-30


class BeforeSoftmax(nn.Module):
    """Runs a network, and returns what its last softmax (or log-softmax) was given instead of what it returns.

    It looks at the operations that torch executes, so the network may be a module, a script, an exported program or a
    twin, and the softmax a layer or a function call.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Return scores (N, K), with gradients where they are enabled.

        Raises:
            ExecutionError: the network computes no softmax.
        """
        given: list[Tensor] = []

        def observe(operation: str, arguments: Sequence[Any], result: object) -> None:
            if operation in _SOFTMAXES:
                given[:] = arguments[:1]

        with watch_operations(observe):
            self.network(inputs)
        if not given:
            raise ExecutionError("the network computes no softmax")
        return given[0]


def without_softmax(model: Differentiable, images: Tensor) -> Preprocessed | None:
    """Return the model's network without the softmax that it ends in; it shares the weights.

    None unless the softmax (or log-softmax) of what it returns was seen, on `images` (N, C, H, W) in [0, 1], to be what
    the model returns.
    """
    candidate = Preprocessed(_cut(model.network.network), replace(model.network.steps, outputs="logits"))
    try:
        scores = replace(model, network=candidate).logits(images)
    except Exception:
        return None
    returned = model.logits(images)
    if scores.shape != returned.shape:
        return None
    # As logarithms, for all probabilities of a network that is sure look alike; below the least they are not exact.
    wanted = scores.log_softmax(1).clamp_min(math.log(_LEAST))
    taken_for = (returned.clamp_min(math.log(_LEAST)), returned.clamp_min(_LEAST).log())
    same = [torch.allclose(logarithms, wanted, rtol=_TOLERANCE, atol=_TOLERANCE) for logarithms in taken_for]
    return candidate if any(same) else None


def _cut(network: nn.Module) -> nn.Module:
    # A network that is fed some images at a time computes a softmax for each of these parts.
    if isinstance(network, InFixedBatches):
        return InFixedBatches(BeforeSoftmax(network.graph), network.size)
    return BeforeSoftmax(network)
