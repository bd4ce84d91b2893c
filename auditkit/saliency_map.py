"""The gradient saliency map of Simonyan et al. 2014."""

from __future__ import annotations

import torch
from torch import Tensor

from auditkit.models.base import Differentiable

__all__ = ["saliency"]


def saliency(model: Differentiable, images: Tensor, classes: Tensor) -> Tensor:
    """Return float32 (N, H, W): how strongly each raw pixel moves the unnormalised score of `classes`.

    The gradient of the class score with respect to `images` (N, C, H, W) in [0, 1], absolute, maximum over channels
    (https://arxiv.org/abs/1312.6034, section 3.1). Of a network that ends in a softmax it is the score before that.
    """
    _, gradient = model.unnormalised.gradient(images, _class_score, classes)
    return gradient.abs().amax(1)


def _class_score(logits: Tensor, classes: Tensor) -> Tensor:
    return torch.gather(logits, 1, classes.unsqueeze(1)).squeeze(1)
