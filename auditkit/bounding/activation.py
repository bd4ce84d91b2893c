"""The bounded leaky ReLU of Horváth and Egervári, its two relatives, and its upper half for networks that have a ReLU.

Three ways to treat what exceeds the bound b, by the slope of the line beyond it:

    fold   y = b - s (x - b)    the talk's: large inputs lead back down, b is the largest output
    leak   y = b + s (x - b)    Liew et al. 2016 (https://doi.org/10.1016/j.neucom.2016.08.037): not bounded, only slow
    clip   y = b                PACT (https://arxiv.org/abs/1805.06085) and ReLU6

All three are clip(x, 0, b) + o relu(x - b) - n relu(-x), where o is -s, s or 0 and n is the slope below zero.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from auditkit.errors import UsageError

__all__ = [
    "BoundedLeakyReLU",
    "Overflow",
    "UpperBound",
    "as_bound",
    "bounded_above",
    "bounded_leaky_relu",
    "overflow_slope",
]

Overflow = Literal["fold", "leak", "clip"]

# softplus of this is 1, so that a bound begins to learn from where it was.
_ONE = math.log(math.e - 1)
_SMALLEST_SHARE = 1e-3


def overflow_slope(overflow: Overflow, slope: float) -> float:
    """Return the slope beyond the bound.

    Raises:
        UsageError: there is no such way to overflow, or the slope is negative or not finite.
    """
    if overflow not in get_args(Overflow):
        raise UsageError(f"overflow is fold, leak or clip; got {overflow!r}")
    if not 0 <= slope < math.inf:
        raise UsageError(f"the slope beyond a bound is zero or a positive number; got {slope}")
    return {"fold": -slope, "leak": slope, "clip": 0.0}[overflow]


def bounded_above(values: Tensor, bound: Tensor, overflow_slope: float, channel_axis: int = 1) -> Tensor:
    """Leave values up to the bound as they are, and continue beyond it with another slope.

    Args:
        values: any shape with the batch first, floating point.
        bound: at least 0; shape () for all values, or (C,) for a bound a channel. An infinite one changes nothing.
        overflow_slope: the derivative beyond the bound.
        channel_axis: the axis of `values` that (C,) bounds run along: 1, or -1 for the last.

    Returns:
        The shape and type of `values`. The derivative by the value is 1 up to and at the bound; the derivative by the
        bound is 0 there and 1 - `overflow_slope` beyond.
    """
    if bound.dim() == 1 and channel_axis == 1:
        return bounded_above(values.transpose(1, -1), bound, overflow_slope, -1).transpose(1, -1)
    bound = bound.type_as(values)
    # An arithmetic of clip and relu would make infinity - infinity out of an infinite value; a choice does not.
    beyond = bound if overflow_slope == 0 else bound + overflow_slope * (values - bound)
    return torch.where(values > bound, beyond, values)


def bounded_leaky_relu(
    x: Tensor,
    bound: Tensor,
    negative_slope: float = 0.01,
    overflow_slope: float = -0.01,
    channel_axis: int = 1,
) -> Tensor:
    """Return clip(x, 0, b) + `overflow_slope` relu(x - b) - `negative_slope` relu(-x), in the shape and type of `x`.

    See `bounded_above` for the bound b and the axis it runs along.
    """
    lower = torch.relu(x) if negative_slope == 0 else functional.leaky_relu(x, negative_slope)
    return bounded_above(lower, bound, overflow_slope, channel_axis)


class UpperBound(nn.Module):
    """Bounds values from above, for example those of a ReLU; the bound is fixed, or learns.

    While it learns, it is its start times softplus of a free parameter: always positive, and one learning rate fits
    layers of any magnitude.
    """

    start: Tensor
    raw: nn.Parameter | None

    def __init__(
        self,
        bound: float | Tensor,
        overflow: Overflow = "fold",
        slope: float = 0.01,
        *,
        channel_axis: int = 1,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        if channel_axis not in (1, -1):
            raise UsageError(f"channel_axis is 1, or -1 for the last; got {channel_axis}")
        self.overflow: Overflow = overflow
        self.overflow_slope = overflow_slope(overflow, slope)
        self.channel_axis = channel_axis
        self.register_buffer("start", as_bound(bound))
        self.register_parameter("raw", None)
        if trainable:
            self.release()

    @property
    def bound(self) -> Tensor:
        """The bound as it is now: shape () or (C,)."""
        return self.start if self.raw is None else self.start * functional.softplus(self.raw)

    def release(self) -> None:
        """Let the bound learn; what is nearly zero beside the largest of the layer starts a little higher.

        Raises:
            UsageError: the bound is infinite or zero, so that it has no size to begin with.
        """
        largest = self.start.max()
        if not 0 < float(largest) < math.inf:
            raise UsageError(f"a bound learns from a finite, positive start; got {float(largest)}")
        self.start = self.start.clamp(min=_SMALLEST_SHARE * largest)
        self.raw = nn.Parameter(torch.full_like(self.start, _ONE))

    def settle(self) -> None:
        """Fix the bound at what it has learned."""
        self.start = self.bound.detach().clone()
        self.raw = None

    def forward(self, values: Tensor) -> Tensor:
        """Return the values (N, ...), bounded."""
        return bounded_above(values, self.bound, self.overflow_slope, self.channel_axis)

    def extra_repr(self) -> str:
        """Return what the printed network says of the bound."""
        size = "layer" if self.start.dim() == 0 else f"{len(self.start)} channels"
        return f"{size}, overflow={self.overflow}, overflow_slope={self.overflow_slope:g}"


class BoundedLeakyReLU(nn.Module):
    """A leaky ReLU with an upper bound, for networks that are built with it; see the head of this file.

    `slope` is the size of the slope beyond the bound, and below zero too, unless `negative_slope` says otherwise.
    """

    def __init__(
        self,
        bound: float | Tensor,
        slope: float = 0.01,
        overflow: Overflow = "fold",
        *,
        negative_slope: float | None = None,
        channel_axis: int = 1,
        trainable: bool = False,
    ) -> None:
        super().__init__()
        self.negative_slope = slope if negative_slope is None else negative_slope
        self.upper = UpperBound(bound, overflow, slope, channel_axis=channel_axis, trainable=trainable)

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation (N, ...) of `x` (N, ...)."""
        upper = self.upper
        return bounded_leaky_relu(x, upper.bound, self.negative_slope, upper.overflow_slope, upper.channel_axis)


def as_bound(bound: float | Tensor) -> Tensor:
    """Return a copy of a bound as a floating-point tensor.

    Raises:
        UsageError: it is not one number or (C,) numbers, each zero or positive.
    """
    value = torch.as_tensor(bound).detach().clone()
    if not value.is_floating_point():
        value = value.float()
    if value.dim() > 1 or not value.numel():
        raise UsageError(f"a bound is one number, or one a channel; got shape {tuple(value.shape)}")
    if not bool((value >= 0).all()):
        raise UsageError(f"a bound is zero or a positive number; got {float(value.min())}")
    return value
