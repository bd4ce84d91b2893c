"""From a value for each window to a picture: at the windows' centres, and over the pixels that they cover."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from auditkit.covers.windows import Windows

__all__ = ["pixel_map", "zeiler_map"]


def zeiler_map(values: Tensor, windows: Windows) -> Tensor:
    """Return (N, R, S): `values` (N, K), a number for each window, where the window's centre lies.

    Of the scores under each cover this is the map of Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901.
    """
    return values.reshape(len(values), *windows.shape)


def pixel_map(values: Tensor, windows: Windows) -> Tensor:
    """Return float64 (N, H, W): the mean of `values` (N, K) over the windows that cover a pixel; NaN if none does."""
    sums = functional.pad(zeiler_map(values, windows).double(), (1, 0, 1, 0)).cumsum(1).cumsum(2)
    # The windows over a pixel are a block of the grid, so four look-ups in the table of sums give their sum.
    top, bottom = _covering(windows.tops, windows.height, windows.image_height, values.device)
    left, right = _covering(windows.lefts, windows.width, windows.image_width, values.device)
    upper, lower = sums[:, top], sums[:, bottom]
    total = lower[:, :, right] - lower[:, :, left] - upper[:, :, right] + upper[:, :, left]
    return total / ((bottom - top).unsqueeze(1) * (right - left))


def _covering(starts: tuple[int, ...], size: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return int64 (side,) twice: the first window of an axis that covers each pixel, and the first one after them."""
    first, pixels = torch.tensor(starts, device=device), torch.arange(side, device=device)
    return torch.searchsorted(first + size, pixels, right=True), torch.searchsorted(first, pixels, right=True)
