"""Networks that are broken on purpose, each in one way: a sanity check must fire on its own and on no healthy one."""

from __future__ import annotations

import copy

import torch
from torch import nn

from auditkit.testing import LinearModel

__all__ = [
    "KWTA",
    "BatchDependent",
    "Binarised",
    "Detached",
    "NaNGradient",
    "Randomised",
    "Rounded",
    "Saturated",
    "SoftmaxOutput",
    "StraightThrough",
    "base_network",
    "with_activation",
]


def base_network(classes=4, seed=1):
    """Return a small healthy network for images (N, 3, 8, 8): convolution, ReLU, pooling, linear."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 16, classes)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return network.eval()


class _Broken(nn.Module):
    def __init__(self, body=None):
        super().__init__()
        self.body = body if body is not None else LinearModel(classes=4, seed=2)


class Randomised(_Broken):
    """Drops pixels at random, in evaluation mode, too."""

    def forward(self, images):
        return self.body(nn.functional.dropout(images, 0.1, training=True))


class BatchDependent(_Broken):
    """Normalises over the images that happen to be in the batch: batch norm in training mode."""

    def forward(self, images):
        scores = self.body(images)
        return scores - scores.mean(0, keepdim=True)


class SoftmaxOutput(_Broken):
    """Returns probabilities where logits are wanted."""

    def forward(self, images):
        return self.body(images).softmax(1)


class Saturated(_Broken):
    """Scores ten thousand times too large: the softmax is flat in float32."""

    def forward(self, images):
        return 1e4 * self.body(images)


class Rounded(_Broken):
    """Rounds the pixels to black and white: no gradient passes."""

    def forward(self, images):
        return self.body((images - 0.5).sign())


class Detached(_Broken):
    """Leaves torch's graph on the way, as a detour over numpy does."""

    def forward(self, images):
        return self.body(images.detach())


class NaNGradient(_Broken):
    """The derivative of the root is infinite at zero, and zero times infinity is not a number."""

    def forward(self, images):
        return self.body(images) + 0 * images[:, 0, 0, :1].square().sqrt()


class _RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context, images, levels):
        return (images * levels).round() / levels

    @staticmethod
    def backward(context, gradient):
        return gradient, None


class StraightThrough(_Broken):
    """Rounds the pixels to a few levels and claims the gradient of not rounding them."""

    def __init__(self, body=None, levels=8.0):
        super().__init__(body)
        self.levels = levels

    def forward(self, images):
        return self.body(_RoundStraightThrough.apply(images, self.levels))


class Binarised(nn.Module):
    """An activation that is -1 or 1: its derivative is zero everywhere."""

    def forward(self, features):
        return features.sign()


class KWTA(nn.Module):
    """An activation that keeps the largest features (k winners take all): jumps wherever the winners change."""

    def __init__(self, share=0.1):
        super().__init__()
        self.share = share

    def forward(self, features):
        flat = features.flatten(1)
        last = flat.topk(max(1, int(self.share * flat.shape[1])), 1).values[:, -1:]
        return (flat * (flat >= last)).view_as(features)


def with_activation(network, activation):
    """Return a copy of a network with another activation in place of every ReLU."""
    changed = copy.deepcopy(network)
    for module in list(changed.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(module, name, activation())
    return changed.eval()
