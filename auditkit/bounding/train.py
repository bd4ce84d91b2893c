"""Bounds that learn while the weights stay: the recipe of PACT and FitAct.

https://arxiv.org/abs/1805.06085, https://arxiv.org/abs/2112.13544. Bounds are few, so a small set of images and a few
epochs do. What makes bounds small is the mean square of each bound relative to where it began; what keeps them large
is the cross entropy.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from auditkit.bounding.activation import UpperBound
from auditkit.bounding.bounded_copy import BoundedNetwork
from auditkit.bounding.learning import Augmentation, learn
from auditkit.errors import UsageError

__all__ = ["released", "size_penalty", "train_bounds"]


def train_bounds(
    bounded: BoundedNetwork,
    images: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator,
    epochs: int = 2,
    rate: float = 0.02,
    penalty: float = 0.1,
    batch: int = 64,
    augment: Augmentation | None = None,
) -> BoundedNetwork:
    """Return a copy whose bounds have learned, beginning where they are; the weights are the same.

    Args:
        bounded: what `bounded_copy` returned; it is not changed. Its bounds are finite.
        images: (N, ...), what the network takes, on its device.
        labels: int64 (N,).
        generator: on the CPU; the same one, in the same state, gives the same bounds on the same machine.
        epochs: how often each image is seen.
        rate: Adam's learning rate; 0.02 moves a bound by about 1 % a step.
        penalty: the weight of the mean of (bound / start)^2 in the loss.
        batch: images a step.
        augment: what is done to each batch before.

    Raises:
        UsageError: nothing is bounded, a bound is infinite or zero throughout, or images and labels do not fit.
    """
    learned = replace(bounded, network=copy.deepcopy(bounded.network))
    modules = released(learned)
    parameters = [module.raw for module in modules if module.raw is not None]
    learn(
        learned.network,
        [(parameters, rate)],
        images,
        labels,
        extra=lambda: penalty * size_penalty(modules),
        epochs=epochs,
        batch=batch,
        generator=generator,
        augment=augment,
    )
    for module in modules:
        module.settle()
    return learned


def released(bounded: BoundedNetwork) -> list[UpperBound]:
    """Let the bounds of a network learn, and return their modules.

    Raises:
        UsageError: nothing is bounded, or a bound is infinite or zero throughout.
    """
    modules = [module for module in bounded.modules() if module is not None]
    if not modules:
        raise UsageError("the network has no bounds that could learn")
    for module in modules:
        module.release()
    return modules


def size_penalty(modules: Sequence[UpperBound]) -> Tensor:
    """Return the mean over all bounds of the square of the bound relative to its start, shape ()."""
    return torch.cat([(module.bound / module.start).flatten() for module in modules]).square().mean()
