"""The outline of an object, drawn into its image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["outlined"]


def outlined(image: Tensor, mask: Tensor) -> Tensor:
    """Return the image (C, H, W) in [0, 1] with a white line around the object and a black one just inside it.

    One of the two shows on any background. An object without a border, for it is empty or fills the image, gets none.
    """
    marked = mask.to(image.dtype)[None, None]
    around = functional.max_pool2d(marked, 3, stride=1, padding=1)
    left = 1 - functional.max_pool2d(1 - marked, 3, stride=1, padding=1)
    image = torch.where(((around > 0) & (marked == 0))[0], torch.ones_like(image), image)
    return torch.where(((marked > 0) & (left == 0))[0], torch.zeros_like(image), image)
