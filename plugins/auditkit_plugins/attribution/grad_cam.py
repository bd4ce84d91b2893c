"""Grad-CAM: where a layer's activations speak for a class (Selvaraju et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from auditkit import Differentiable
from auditkit_plugins.attribution.gradients import class_score
from auditkit_plugins.attribution.layers import Layer, activation, find_layer

__all__ = ["grad_cam"]


def grad_cam(model: Differentiable, images: Tensor, classes: Tensor, layer: Layer | None = None) -> Tensor:
    """Return float32 (N, H, W), not negative: where the activations of a layer raise the score of `classes`.

    With the activation A (N, C, h, w) and the unnormalised score s of the class, a channel weighs the mean of ds/dA
    over its places; the map is what is positive of the weighted sum of the channels, enlarged bilinearly
    (https://arxiv.org/abs/1610.02391). It keeps its scale, so maps of different images can be compared. The gradient
    goes back to the layer, and no further.

    Args:
        model: what is explained, before its softmax.
        images: (N, C, H, W) in [0, 1].
        classes: int64 (N,).
        layer: as `find_layer` finds it; None: the last that lies on the image.

    Raises:
        ExecutionError: the network has no such layer.
    """
    model = model.unnormalised
    found = layer if layer is not None else find_layer(model, images)

    def maps(part: Tensor, chosen: Tensor) -> Tensor:
        with torch.enable_grad():
            scores, values = activation(model, found, part.detach().requires_grad_(True))
            (slopes,) = torch.autograd.grad(class_score(scores, chosen).sum(), values)
        pairs = zip(found.layout.spatial(values.detach()), found.layout.spatial(slopes), strict=True)
        # Image by image, for a sum over many rows may add up in another order than a sum over one.
        small = torch.stack([_weighted(value.float(), slope.float()) for value, slope in pairs])
        return functional.interpolate(small.unsqueeze(1), images.shape[2:], mode="bilinear").squeeze(1)

    return found.fitted(model).in_batches(maps, images, classes)


def _weighted(values: Tensor, slopes: Tensor) -> Tensor:
    """Return (h, w) for an activation and its gradient, both (C, h, w)."""
    return (slopes.mean((1, 2), keepdim=True) * values).sum(0).relu()
