"""The demo's network: plain convolutions, small enough to travel within the package."""

from __future__ import annotations

import os

from safetensors.torch import load_file
from torch import Tensor, nn

from auditkit.demo import WEIGHTS

__all__ = ["SignNet", "sign_net"]


class SignNet(nn.Module):
    """Reads RGB images, float (N, 3, 32, 32) in [0, 1], and returns logits (N, classes)."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_convolution(3, 16),
            nn.MaxPool2d(2),
            *_convolution(16, 32),
            *_convolution(32, 48),
            nn.MaxPool2d(2),
            *_convolution(48, 64),
            *_convolution(64, 80),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(80, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) for images (N, 3, 32, 32) in [0, 1]."""
        features = self.features((images - 0.4) / 0.25)
        logits: Tensor = self.classifier(self.pool(features).flatten(1))
        return logits


def sign_net(weights: str | os.PathLike[str] | None = None) -> SignNet:
    """A trained `SignNet` in evaluation mode.

    Args:
        weights: A safetensors file with exactly the network's tensors; by default the one in the package.
    """
    network = SignNet()
    network.load_state_dict(load_file(WEIGHTS if weights is None else weights))
    return network.eval()


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(outputs), nn.ReLU()
