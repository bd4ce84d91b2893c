"""The option `eot` of gradient attacks: look for what still fools once it was photographed."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from auditkit import Expectation, Goal, Streams
from auditkit_plugins.camera import photographed

__all__ = ["Draws", "goal_under", "photographs"]

_MEDIUM = 2
_USUAL_DRAWS = 4


def _number(value: object) -> object:
    """Take `true` where a number of draws is wanted, and `false` for none."""
    return {"true": _USUAL_DRAWS, "false": 0}.get(str(value).lower(), value)


Draws = Annotated[int, BeforeValidator(_number), Field(ge=0)]
"""How many photographs of an image each gradient is averaged over; 0: the image itself is all that counts."""


def goal_under(draws: int) -> Goal:
    """Return the goal of an attack: under photographs not the first success counts, but the one that fools most."""
    return "strongest" if draws else "first"


def photographs(draws: int) -> Expectation | None:
    """Return the expectation over so many random photographs of an image at each step; None for 0."""
    return Expectation(_photographed, draws) if draws else None


def _photographed(images: Tensor, rng: Streams, number: Tensor) -> Tensor:
    # Apart from the numbers that the attack itself and the check physical.survival draw.
    return photographed(images, _MEDIUM, Streams(rng.keys ^ torch.ones_like(rng.keys)), number)
