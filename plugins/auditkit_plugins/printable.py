"""How far a picture's colours lie from what a printer can put on paper."""

from __future__ import annotations

import torch
from torch import Tensor

from auditkit import ExecutionError

__all__ = ["non_printability", "printable_colours"]

# An office printer lays cyan, magenta and yellow dots on white paper, so its colours are the eight solid overprints
# of the three inks, as the usual process inks look on coated paper, and the mixtures of each with bare paper.
_OVERPRINTS = (
    (1.00, 1.00, 1.00),
    (0.00, 0.62, 0.88),
    (0.90, 0.00, 0.48),
    (1.00, 0.93, 0.00),
    (0.89, 0.00, 0.10),
    (0.00, 0.59, 0.25),
    (0.19, 0.15, 0.51),
    (0.11, 0.11, 0.11),
)
_SHARES_OF_INK = (0.33, 0.67, 1.0)
_LUMA = (0.299, 0.587, 0.114)


def printable_colours(channels: int, device: torch.device | str = "cpu") -> Tensor:
    """Return float32 (P, C): the palette, in [0, 1], for pictures of one channel or three.

    Raises:
        ExecutionError: there is no palette for so many channels.
    """
    if channels not in (1, 3):
        raise ExecutionError(f"printability is known of pictures with 1 or 3 channels; these have {channels}")
    inks = torch.tensor(_OVERPRINTS, device=device)
    shares = torch.tensor(_SHARES_OF_INK, device=device).view(-1, 1, 1)
    palette = torch.cat([inks[:1], torch.lerp(inks[:1], inks[1:], shares).flatten(0, 1)])
    return palette if channels == 3 else palette @ torch.tensor(_LUMA, device=device).unsqueeze(1)


def non_printability(pictures: Tensor) -> Tensor:
    """Return (N,): the mean distance of the pixels of (N, C, H, W) to the nearest printable colour; 0 is printable.

    After Sharif et al. 2016, https://doi.org/10.1145/2976749.2978392, who multiply the distances to all colours; the
    nearest one alone keeps its meaning for a palette of any size.
    """
    palette = printable_colours(pictures.shape[1], pictures.device).to(pictures.dtype)
    pixels = pictures.flatten(2).transpose(1, 2).unsqueeze(2)
    squared = (pixels - palette).square().sum(3).amin(2)
    # At a printable colour the root has no slope of its own; the shift gives it the slope 0.
    return ((squared + 1e-12).sqrt() - 1e-6).mean(1)
