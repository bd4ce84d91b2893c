"""Controls for what an attack does to a model: the same perturbation at another place, where it was not aimed."""

from __future__ import annotations

import torch
from torch import Tensor

from auditkit import Streams

__all__ = ["moved"]

# What storing an image in 16 bits a channel may change.
_STORAGE = 1 / 65535
_MOST_TO_CUT_OUT = 0.5


def moved(clean: Tensor, attacked: Tensor, streams: Streams) -> Tensor:
    """Move each image's perturbation to another place; what leaves on one side comes in on the other.

    Of an image that was changed in at most half of its pixels (a sticker, say) the changed pixels are cut out and
    pasted on the clean image elsewhere. Of any other (faint noise, say) the difference is moved and added, and clipped
    to [0, 1].

    Args:
        clean: (N, C, H, W) in [0, 1].
        attacked: the same images, attacked.
        streams: a random stream an image; the place is drawn from it.

    Returns:
        (N, C, H, W) in [0, 1]. An image of a single pixel has no other place.
    """
    height, width = clean.shape[2:]
    draw = streams.uniform(0, (1,)).flatten().double()
    # Any offset but none at all.
    offset = 1 + (draw * (height * width - 1)).long()
    down, right = offset // width % height, offset % width
    changed = ((attacked - clean).abs() > _STORAGE).any(1, keepdim=True)
    pasted = torch.where(_rolled(changed, down, right), _rolled(attacked, down, right), clean)
    added = (clean + _rolled(attacked - clean, down, right)).clamp(0, 1)
    cut_out = changed.flatten(1).double().mean(1) <= _MOST_TO_CUT_OUT
    return torch.where(cut_out.view(-1, 1, 1, 1), pasted, added)


def _rolled(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Return images (N, C, H, W), each moved by its own number of rows and columns."""
    height, width = images.shape[2:]
    rows = (torch.arange(height, device=images.device) - down.unsqueeze(1)) % height
    columns = (torch.arange(width, device=images.device) - right.unsqueeze(1)) % width
    each = torch.arange(len(images), device=images.device)
    return images[each[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
