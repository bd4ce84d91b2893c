"""Where a feature map changes under a cover: boxes that grow from layer to layer, worked out before anything is run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Boxes", "Reach", "Span", "cut", "put"]


@dataclass(frozen=True)
class Reach:
    """How far a layer looks along one axis: the taps of its kernel, as in `torch.nn.Conv2d`."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @property
    def taps(self) -> int:
        """From the first to the last input that an output depends on."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def margin(self) -> int:
        """By how much at either end the changed inputs may stick out of those that the outputs depend on."""
        return self.stride - 1

    def inputs(self, outputs: int) -> int:
        """Return on how many inputs in a row so many outputs depend."""
        return (outputs - 1) * self.stride + self.taps


@dataclass(frozen=True)
class Span:
    """Along an axis of `side` values: for each window, all that it changes lies in `size` values from its start."""

    side: int
    size: int
    starts: tuple[int, ...]

    def through(self, reach: Reach) -> Span:
        """Return the span of a layer's outputs: all that depend on a value of this one."""
        side = (self.side + 2 * reach.padding - reach.taps) // reach.stride + 1
        size = min(side, (self.size + reach.taps - 2) // reach.stride + 1)
        first = (-((reach.taps - 1 - reach.padding - start) // reach.stride) for start in self.starts)
        return Span(side, size, tuple(min(max(0, start), side - size) for start in first))

    @staticmethod
    def joined(spans: Sequence[Span]) -> Span:
        """Return the span that holds all of these, which lie along the same axis."""
        side = spans[0].side
        ranges = [
            (min(starts), max(start + span.size for start, span in zip(starts, spans, strict=True)))
            for starts in zip(*(span.starts for span in spans), strict=True)
        ]
        size = max(end - start for start, end in ranges)
        return Span(side, size, tuple(min(start, side - size) for start, _ in ranges))


@dataclass(frozen=True)
class Boxes:
    """A rectangle of a feature map for each window of a grid, by its spans down and across."""

    down: Span
    across: Span

    @property
    def share(self) -> float:
        """The part of the map that a box takes."""
        return self.down.size * self.across.size / (self.down.side * self.across.side)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a box."""
        return self.down.size, self.across.size

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the map."""
        return self.down.side, self.across.side

    @property
    def everywhere(self) -> Boxes:
        """The whole map, for every window."""
        whole = [Span(span.side, span.side, (0,) * len(span.starts)) for span in (self.down, self.across)]
        return Boxes(whole[0], whole[1])

    def through(self, down: Reach, across: Reach) -> Boxes:
        """Return the boxes of a layer's outputs."""
        return Boxes(self.down.through(down), self.across.through(across))

    @staticmethod
    def joined(boxes: Iterable[Boxes]) -> Boxes:
        """Return boxes that hold all of these, which are of maps of one size."""
        down, across = zip(*((one.down, one.across) for one in boxes), strict=True)
        return Boxes(Span.joined(down), Span.joined(across))


def cut(maps: Tensor, rows: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (B, C, *size), channels last: for each b, the part of `maps[rows[b]]` (C, H, W) from its corner on."""
    (height, width), (_, channels, down, across) = size, maps.shape
    pixels = maps.permute(0, 2, 3, 1).reshape(-1, channels)
    # A line of pixels lies in one piece, and copying pieces is several times faster than indexing pixels.
    lines = pixels.as_strided((len(pixels) - width + 1, width * channels), (channels, 1))
    first = (rows * down + top) * across + left
    at = first.unsqueeze(1) + torch.arange(height, device=maps.device) * across
    return lines.index_select(0, at.flatten()).view(len(rows), height, width, channels).permute(0, 3, 1, 2)


def put(maps: Tensor, part: Tensor, top: Tensor, left: Tensor) -> None:
    """Write `part` (B, C, h, w) into `maps` (B, C, H, W), each row to its own corner."""
    rows = torch.arange(len(maps), device=maps.device)
    places = maps.permute(0, 2, 3, 1).unfold(1, part.shape[2], 1).unfold(2, part.shape[3], 1)
    places.permute(0, 1, 2, 4, 5, 3)[rows, top, left] = part.permute(0, 2, 3, 1)
