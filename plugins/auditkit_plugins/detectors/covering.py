"""What pieces show: the texture that was learned, or the controls of the same size, noise and plain grey."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from auditkit import Context
from auditkit_plugins.detectors.pieces import Sheet, laid

__all__ = ["PRINTS", "Print", "printed"]

Print = Literal["patch", "noise", "plain"]
PRINTS: tuple[Print, ...] = get_args(Print)

_GREY = 0.5


def printed(
    images: Tensor, ids: tuple[str, ...], sheet: Sheet, kind: Print, tiles: Tensor, draw: int, ctx: Context
) -> Tensor:
    """Return images (N, C, H, W), called `ids`, with that print on the pieces of a sheet.

    The colours of noise are random for each pixel, image and draw, evenly spread.
    """
    match kind:
        case "patch":
            return laid(images, tiles, sheet)
        case "noise":
            colours = ctx.streams(ids, "noise").uniform(draw, images.shape[1:])
        case "plain":
            colours = torch.full_like(images, _GREY)
    return torch.where(sheet.covered.unsqueeze(1), colours, images)
