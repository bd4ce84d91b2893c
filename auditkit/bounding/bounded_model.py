"""A model with bounds beside the model itself: what an audit asks, attacks and differentiates like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, cast

from torch import Tensor

from auditkit.bounding.activation import Overflow
from auditkit.bounding.bounded_copy import Bound, bounded_copy
from auditkit.bounding.straight_through import straight_through
from auditkit.errors import ExecutionError
from auditkit.models.base import Differentiable, Model
from auditkit.models.batching import find_gradient_batching
from auditkit.models.preprocess import Preprocessed

__all__ = ["bounded_differentiable", "bounded_model"]


def bounded_model(model: Model, images: Tensor, bounds: Sequence[Bound], overflow: Overflow = "fold") -> Model:
    """Return the model with its rectifiers bounded; with infinite bounds its scores are the bits of `model.exact`.

    It is torch that computes its verdicts, in float32, also where onnxruntime gives those of the model: they are then
    those of the twin. A TorchScript graph may be computed in another order, which rounds differently.

    Args:
        model: what has gradients; it is not changed.
        images: (N, C, H, W) in [0, 1], N at least 1: the network is tried on a few of them.
        bounds: one for each site of `model.exact.network`, in order of execution.
        overflow: what happens beyond the bound; see `bounded_copy`.

    Raises:
        UsageError: the bounds do not fit the sites.
        NothingToBound: there are no sites.
        ExecutionError: the model has no gradients, or its network cannot be rewritten.
    """
    if model.exact is None:
        raise ExecutionError(f"{model.info.name}: bounds need a differentiable network ({model.no_gradients})")
    exact = bounded_differentiable(model.exact, images.to(model.device), bounds, overflow)
    return Model(
        info=replace(model.info, name=f"{model.info.name} with bounds", provider="torch"),
        deployed=exact.forward,
        device=model.device,
        exact=exact,
        no_gradients=None,
        gradient_source=model.gradient_source,
        batching=exact.batching,
        batch=model.batch,
    )


def bounded_differentiable(
    given: Differentiable,
    images: Tensor,
    bounds: Sequence[Bound],
    overflow: Overflow = "fold",
    backward: Literal["bounded", "unbounded"] = "bounded",
) -> Differentiable:
    """Return a copy with bounds, in the same precision; `backward` unbounded: see `straight_through`.

    The other arguments, and what is raised, are those of `bounded_model`.
    """
    tried = images.to(dtype=given.dtype, memory_format=given.memory_format)
    bounded = bounded_copy(given.network, tried, bounds, overflow)
    network = bounded.network if backward == "bounded" else straight_through(bounded)
    copied = replace(
        given,
        network=cast(Preprocessed, network.requires_grad_(False)),
        description=f"{given.description}, with bounds",
        before_softmax=None,
    )
    # One row at a time is what the network insists on.
    return copied if given.batching.fixed == 1 else replace(copied, batching=find_gradient_batching(copied, images))
