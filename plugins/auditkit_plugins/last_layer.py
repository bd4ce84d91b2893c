"""The last linear layer of a network: what goes into it, and what the network says when that is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from auditkit import Differentiable, watch_operations

__all__ = ["last_weights", "with_bounded_features"]

# Operations that multiply rows of features by weights, and where these two stand among their arguments.
_LINEAR = {"aten.addmm": (1, 2), "aten.mm": (0, 1), "aten.linear": (0, 1)}
_PRODUCTS = (*_LINEAR, "aten.convolution", "aten.bmm", "aten.baddbmm")
_FEW = 16


def last_weights(exact: Differentiable, images: Tensor, classes: int) -> Tensor | None:
    """Return the weights of the linear layer that the network ends in, as it runs on the first of these images.

    None where the last product is no linear layer with `classes` outputs: a convolution before a pooling, say.
    """
    last: Tensor | None = None

    def observe(operation: str, arguments: Sequence[Any], result: Any) -> None:
        nonlocal last
        if operation in _PRODUCTS:
            ends_here = operation in _LINEAR and result.shape[1:] == (classes,)
            last = arguments[_LINEAR[operation][1]] if ends_here else None

    with watch_operations(observe):
        exact.logits(images[:_FEW])
    return last


def with_bounded_features(
    exact: Differentiable, images: Tensor, weights: Tensor, bound: float
) -> tuple[Tensor, Tensor] | None:
    """Return the penultimate features (N, D) of images (N, C, H, W), and the logits (N, K) once they are bounded.

    The features are what is multiplied by the `weights` of the last layer. Where they exceed `bound` they are cut off,
    and go on through that layer and whatever follows it. None where these weights are not used once for each image.
    """
    features, logits = [], []
    size = exact.batching.chunk(exact.batch)
    for at in range(0, len(images), size):
        part = images[at : at + size]
        with _bounded(weights, bound) as seen:
            logits.append(exact.logits(part))
        rows = sum(len(values) for values in seen)
        # A batch may be filled up, but a layer that all images go through twice would be there twice as often.
        if not len(part) <= rows < 2 * max(len(part), exact.batching.padded(len(part))):
            return None
        features.append(exact.batching.pick(torch.cat(seen), len(part)))
    return torch.cat(features), torch.cat(logits)


@contextmanager
def _bounded(weights: Tensor, bound: float) -> Iterator[list[Tensor]]:
    mode = _Bounded(weights, bound)
    # An optimised script computes several operations as one, which cannot be changed from outside.
    with torch.jit.optimized_execution(False), mode:  # type: ignore[attr-defined]
        yield mode.features


class _Bounded(TorchDispatchMode):
    """Bounds what is multiplied by these weights, in everything that this thread executes meanwhile."""

    def __init__(self, weights: Tensor, bound: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._weights = weights
        self._bound = bound
        self.features: list[Tensor] = []
        """What there was to be bounded."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        places = _LINEAR.get(str(func.overloadpacket))
        if places is not None and self._are_these(args[places[1]]):
            features = args[places[0]]
            self.features.append(features)
            args = [*args[: places[0]], features.clamp(max=self._bound), *args[places[0] + 1 :]]
        return func(*args, **(kwargs or {}))

    def _are_these(self, weights: Tensor) -> bool:
        # Held by this object, the weights keep their place in memory to themselves.
        return weights.data_ptr() == self._weights.data_ptr() and weights.shape == self._weights.shape
