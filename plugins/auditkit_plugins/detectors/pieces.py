"""Pieces of printed texture on images: rectangles of whole pixels, cut from tiles that repeat at their own scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Piece", "Sheet", "laid", "plan_sheet"]


@dataclass(frozen=True)
class Piece:
    """A rectangle on one image, in pixels."""

    row: int
    """Which of the images it lies on."""
    top: int
    left: int
    height: int
    width: int
    contrast: float = 1.0
    """What the distance of its colours from mid-grey is multiplied by."""
    brightness: float = 0.0
    """What is added to its colours."""
    tile: int = 0
    """Which of several tiles it shows."""


@dataclass(frozen=True)
class Sheet:
    """Where pieces cover N images, and which place of which tile each covered pixel shows."""

    covered: Tensor
    """bool (N, H, W)."""
    texel: Tensor
    """int64 (Q,), one for each covered pixel in order: its place among all texels, tile by tile, row by row."""
    contrast: Tensor
    """float32 (Q,)."""
    brightness: Tensor
    """float32 (Q,)."""


def plan_sheet(pieces: Sequence[Piece], images: Tensor, side: int) -> Sheet:
    """Return where pieces lie on images (N, C, H, W), for tiles of `side` texels, one a pixel.

    The middle of a tile is in the middle of each piece. Where two pieces overlap, the later one is on top.
    """
    (n, _, height, width), device = images.shape, images.device
    texel = torch.full((n, height, width), -1, dtype=torch.int64, device=device)
    contrast, brightness = (torch.empty(n, height, width, device=device) for _ in range(2))
    across = torch.arange(max(height, width), device=device)
    for piece in pieces:
        rows = (across[: piece.height] + side // 2 - piece.height // 2) % side
        columns = (across[: piece.width] + side // 2 - piece.width // 2) % side
        area = (
            piece.row,
            slice(piece.top, piece.top + piece.height),
            slice(piece.left, piece.left + piece.width),
        )
        texel[area] = (piece.tile * side + rows.unsqueeze(1)) * side + columns
        contrast[area], brightness[area] = piece.contrast, piece.brightness
    covered = texel >= 0
    return Sheet(covered, texel[covered], contrast[covered], brightness[covered])


def laid(images: Tensor, tiles: Tensor, sheet: Sheet) -> Tensor:
    """Return images (N, C, H, W) with pieces of tiles (P, C, S, S) on them; differentiable in the tiles."""
    colours = tiles.transpose(0, 1).flatten(1)[:, sheet.texel]
    lit = ((colours - 0.5) * sheet.contrast + 0.5 + sheet.brightness).clamp(0, 1)
    covered = images.permute(1, 0, 2, 3).clone()
    covered[:, sheet.covered] = lit
    return covered.permute(1, 0, 2, 3).contiguous()
