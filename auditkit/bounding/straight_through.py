"""Bounds that gradients do not see: what an attacker does who knows of them.

Beyond its bound a clip has the derivative 0, and a fold one of the wrong sign: a gradient attack may fail although the
network is as fragile as before. Backward pass differentiable approximation (BPDA, Athalye et al. 2018,
https://arxiv.org/abs/1802.00420) computes the network as it is, and differentiates it as if there were no bounds.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from auditkit.bounding.activation import UpperBound
from auditkit.bounding.bounded_copy import BoundedNetwork

__all__ = ["StraightThrough", "straight_through"]


class StraightThrough(nn.Module):
    """An upper bound whose derivative by the values is 1 everywhere."""

    def __init__(self, bound: UpperBound) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, values: Tensor) -> Tensor:
        """Return the values (N, ...), bounded."""
        passed: Tensor = _Passed.apply(values, self.bound(values.detach()))  # type: ignore[no-untyped-call]
        return passed


class _Passed(torch.autograd.Function):
    """Returns what was made of the values, and gives its slope to the values themselves."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, made: Tensor) -> Tensor:
        return made.view_as(made)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        return slope, None


def straight_through(bounded: BoundedNetwork) -> nn.Module:
    """Return a copy of the network that computes the same bits, with the gradients of a network without bounds."""
    network = copy.deepcopy(bounded.network)
    for path in bounded.paths:
        if path is not None:
            module = network.get_submodule(path)
            assert isinstance(module, UpperBound)  # noqa: S101 (that is what `paths` are)
            network.set_submodule(path, StraightThrough(module))
    return network
