"""Soft random masks over an image: a coarse grid of kept and hidden cells, blown up smoothly and shifted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit import Streams

__all__ = ["RandomMasks"]


@dataclass(frozen=True)
class RandomMasks:
    """M masks as in RISE (https://arxiv.org/abs/1806.07421): only their grids and shifts are kept."""

    grids: Tensor
    """float32 (M, s, s): 1 where a cell is kept, 0 where it is hidden."""
    shifts: Tensor
    """float32 (M, 2) in (0, 1): by which part of a cell a mask is moved up and to the left."""

    @staticmethod
    def draw(rng: Streams, count: int, grid: int, keep: float) -> RandomMasks:
        """Return masks of grid x grid cells from one sample's stream; each cell is kept with probability `keep`."""
        numbers = torch.arange(count, device=rng.keys.device)
        drawn = Streams(rng.keys.expand(count, 2)).uniform(numbers, (grid * grid + 2,))
        cells = drawn[:, : grid * grid] < keep
        return RandomMasks(cells.float().view(count, grid, grid), drawn[:, grid * grid :])

    def over(self, image: Tensor, part: slice) -> Tensor:
        """Return float32 (m, H, W) in [0, 1]: some of the masks, at the size of an image (C, H, W)."""
        _, height, width = image.shape
        grids, shifts = self.grids[part], self.shifts[part]
        return _stretched(_stretched(grids, shifts[:, 0], height).mT, shifts[:, 1], width).mT


def _stretched(grids: Tensor, shift: Tensor, side: int) -> Tensor:
    """Return (m, side, n) from (m, s, n): the first axis s + 1 cells long, interpolated, and cut at the shift."""
    m, s, n = grids.shape
    cell = -(-side // s)
    pixel = torch.arange(side, device=grids.device) + (shift.unsqueeze(1) * cell).floor()
    at = ((pixel + 0.5) * (s / ((s + 1) * cell)) - 0.5).clamp(0, s - 1)
    first = at.floor().clamp_max(s - 2)
    near = first.long().unsqueeze(2).expand(m, side, n)
    weight = (at - first).unsqueeze(2)
    return grids.gather(1, near) * (1 - weight) + grids.gather(1, near + 1) * weight
