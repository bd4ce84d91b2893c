"""Weights that learn to live with bounds: a few epochs for all of them."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from auditkit.bounding.bounded_copy import BoundedNetwork
from auditkit.bounding.learning import Augmentation, learn
from auditkit.bounding.train import released, size_penalty
from auditkit.errors import UsageError

__all__ = ["fine_tune"]


def fine_tune(
    bounded: BoundedNetwork,
    images: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    epochs: int = 2,
    rate: float = 1e-4,
    bound_rate: float = 0.02,
    penalty: float = 0.1,
    batch: int = 64,
    augment: Augmentation | None = None,
) -> BoundedNetwork:
    """Return a copy whose weights and bounds have learned together; statistics of batch norm stay as they are.

    The arguments are those of `train_bounds`; `rate` is that of the weights, `bound_rate` that of the bounds, and a
    `bound_rate` of 0 keeps the bounds.

    Raises:
        UsageError: nothing is bounded, the network has no parameters (twins of ONNX graphs have none), a bound is
            infinite or zero throughout, or images and labels do not fit.
    """
    learned = replace(bounded, network=copy.deepcopy(bounded.network))
    weights = [parameter for parameter in learned.network.parameters() if parameter.is_floating_point()]
    if not weights:
        raise UsageError("the network has no parameters that could learn; a twin of an ONNX graph has none")
    modules = released(learned) if bound_rate else []
    bounds = [module.raw for module in modules if module.raw is not None]
    learn(
        learned.network,
        [(weights, rate), (bounds, bound_rate)] if bounds else [(weights, rate)],
        images,
        labels,
        extra=lambda: penalty * size_penalty(modules) if modules else images.new_zeros(()),
        epochs=epochs,
        batch=batch,
        generator=generator,
        augment=augment,
    )
    for module in modules:
        module.settle()
    return learned
