"""The threat model: how far an attacked image may lie from the clean one, and the independent judge of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor

from auditkit.budgets import budget_text

__all__ = ["Norm", "ThreatModel", "allowed", "distance", "tolerated"]

Norm = Literal["linf", "l2", "l1", "l0", "area", "free"]
Scale = TypeVar("Scale", float, Tensor, float | Tensor)

# Rounding of float32 arithmetic: an attack that projects honestly may end this far outside.
_RELATIVE_TOLERANCE = 1e-5
_ABSOLUTE_TOLERANCE = 1e-6

_WORDS = {
    "linf": "every colour value may change by at most {}",
    "l2": "the Euclidean length of the change is at most {}",
    "l1": "the changes of all colour values add up to at most {}",
    "l0": "at most {} pixels may change, by any amount",
    "area": "at most {} of the pixels may change, by any amount",
    "free": "any image",
}


def distance(norm: Norm, clean: Tensor, attacked: Tensor) -> Tensor:
    """Return float32 (N,): how far `attacked` lies from `clean`, both (N, C, H, W) in [0, 1].

    `l0` counts pixels (all channels of one pixel are one change), `area` is their share, `free` is 0.
    """
    change = (attacked - clean).abs()
    match norm:
        case "linf":
            return change.flatten(1).amax(1)
        case "l2":
            return _row_sums(change.square()).sqrt()
        case "l1":
            return _row_sums(change)
        case "l0":
            return (change.amax(1) > 0).flatten(1).sum(1).to(clean.dtype)
        case "area":
            return (change.amax(1) > 0).flatten(1).to(clean.dtype).mean(1)
        case "free":
            return clean.new_zeros(len(clean))


def _row_sums(values: Tensor) -> Tensor:
    """Return (N,): each row's sum, the same to the last bit in any company."""
    rows = values.flatten(1)
    # A row that is alone is split among torch's threads and summed in another order.
    return rows.sum(1) if len(rows) != 1 else torch.cat([rows, rows]).sum(1)[:1]


def tolerated(eps: Scale) -> Scale:
    """Return the distance up to which a point counts as inside the budget `eps`, rounding of float32 allowed for."""
    return eps * (1 + _RELATIVE_TOLERANCE) + _ABSOLUTE_TOLERANCE


def allowed(norm: Norm, eps: Tensor | float, clean: Tensor, attacked: Tensor) -> Tensor:
    """Return bool (N,): `attacked` is inside its budget (one number or (N,)), inside [0, 1], and finite."""
    inside = distance(norm, clean, attacked) <= tolerated(eps)
    flat = attacked.flatten(1)
    return inside & (flat >= 0).all(1) & (flat <= 1).all(1)


@dataclass(frozen=True)
class ThreatModel:
    """A norm and a budget in units of images in [0, 1] (pixels for `l0`, a share for `area`)."""

    norm: Norm
    eps: float

    def describe(self) -> str:
        """Return the threat model in words."""
        size = f"{100 * self.eps:.3g} %" if self.norm == "area" else budget_text(self.eps)
        return f"{self.norm}: {_WORDS[self.norm].format(size)}"
