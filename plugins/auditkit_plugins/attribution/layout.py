"""How an activation lies on the image: which of its numbers belong to which place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

__all__ = ["Channels", "Layout", "layout_of"]

Channels: TypeAlias = Literal["first", "last", "tokens"]
"""(N, C, h, w), (N, h, w, C) or (N, tokens, C)."""

# Rows and columns of a map stand to each other as those of the image do, within this factor: borders are rounded.
_SAME_PROPORTIONS = 1.5
# A token that belongs to no place in front of the others: the class token of a vision transformer.
_LEADING = (0, 1)


@dataclass(frozen=True)
class Layout:
    """Where the channels of an activation are, and how its places make up a grid over the image."""

    channels: Channels
    height: int
    width: int
    leading: int = 0
    """Tokens in front of those of the grid."""

    def spatial(self, values: Tensor) -> Tensor:
        """Return (N, C, h, w) for values of this layout."""
        match self.channels:
            case "first":
                return values
            case "last":
                return values.permute(0, 3, 1, 2)
            case "tokens":
                return values[:, self.leading :].transpose(1, 2).reshape(len(values), -1, self.height, self.width)


def layout_of(shape: Sequence[int], size: Sequence[int], channels: Channels | None) -> Layout | None:
    """Return how an activation lies on an image, None where it does not, or has one place only.

    Args:
        shape: of the activation: (N, C, h, w), (N, h, w, C) or (N, tokens, C).
        size: height and width of the image.
        channels: where they are, if that is known: `last` in three dimensions are tokens. None: where the rest has the
            proportions of the image.
    """
    if len(shape) == 3 and channels != "first":
        # One number a token is a statistic of it, such as its variance.
        return _tokens(shape[1], size) if shape[2] > 1 else None
    if len(shape) != 4 or channels == "tokens":
        return None
    first = Layout("first", shape[2], shape[3])
    last = Layout("last", shape[1], shape[2])
    if channels is not None:
        found = first if channels == "first" else last
    else:
        found = min(first, last, key=lambda layout: _disproportion(layout, size))
        if _disproportion(found, size) > _SAME_PROPORTIONS:
            return None
    return found if found.height * found.width > 1 else None


def _disproportion(layout: Layout, size: Sequence[int]) -> float:
    """Return the factor between the proportions of a grid and those of the image, at least 1."""
    ratio = layout.height * size[1] / (layout.width * size[0])
    return max(ratio, 1 / ratio)


def _tokens(tokens: int, size: Sequence[int]) -> Layout | None:
    """Return the grid with the very proportions of the image that so many tokens make up."""
    for leading in _LEADING:
        places = tokens - leading
        height = math.isqrt(places * size[0] // size[1])
        if places > 1 and height * height * size[1] == places * size[0]:
            return Layout("tokens", height, places // height, leading)
    return None
