"""The loop that bounds and weights learn in: shuffled batches, Adam, cross entropy and whatever else is to be small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from auditkit.errors import UsageError

__all__ = ["Augmentation", "learn"]

Augmentation: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""Images (n, ...) to images to learn from, with all its chance from the generator."""


def learn(
    network: nn.Module,
    groups: Sequence[tuple[Sequence[nn.Parameter], float]],
    images: Tensor,
    labels: Tensor,
    *,
    extra: Callable[[], Tensor],
    epochs: int,
    batch: int,
    generator: torch.Generator,
    augment: Augmentation | None,
) -> None:
    """Minimise cross entropy plus `extra()`; only the parameters in the groups change.

    Args:
        network: in evaluation mode, which it keeps; its scores are (n, K).
        groups: parameters, each group with its learning rate.
        images: (N, ...), what the network takes.
        labels: int64 (N,).
        extra: a further term of the loss.
        epochs: how often each image is seen.
        batch: images a step.
        generator: on the CPU; decides the order of the images, and goes to `augment`.
        augment: what is done to each batch before.

    Raises:
        UsageError: there are no images, not one label an image, or numbers that make no sense.
    """
    if not len(images) or len(images) != len(labels):
        raise UsageError(f"learning takes images with one label each; got {len(images)} and {len(labels)}")
    if epochs < 1 or batch < 1 or any(rate <= 0 for _, rate in groups):
        raise UsageError(f"epochs, batch and rates are positive; got {epochs}, {batch}, {[rate for _, rate in groups]}")
    optimiser = torch.optim.Adam([{"params": list(parameters), "lr": rate} for parameters, rate in groups])
    required = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.requires_grad_(False)
    for parameters, _ in groups:
        for parameter in parameters:
            parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            for _ in range(epochs):
                for chosen in torch.randperm(len(images), generator=generator).split(batch):  # type: ignore[no-untyped-call]
                    chosen = chosen.to(images.device)
                    given = images[chosen] if augment is None else augment(images[chosen], generator)
                    loss = functional.cross_entropy(network(given), labels[chosen]) + extra()
                    optimiser.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
    finally:
        network.zero_grad()
        for parameter, before in required:
            parameter.requires_grad_(before)
