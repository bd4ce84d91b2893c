"""From auditkit's images (RGB in [0, 1]) to what the network was trained on, and from its outputs to logits."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from auditkit.errors import UsageError

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Preprocessed",
    "Preprocessing",
    "copied",
    "frozen_copy",
    "parse_channels",
    "parse_range",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The smallest probability whose logarithm is still a usable score in float32.
_SMALLEST_PROBABILITY = 1e-30


@dataclass(frozen=True)
class Preprocessing:
    """The steps between an image and the network, in order: range, normalisation, channel order, layout."""

    input_range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] | None = None
    """Subtracted a channel (RGB order), in units of `input_range`."""
    std: tuple[float, ...] | None = None
    channel_order: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    outputs: Literal["logits", "probabilities", "labels"] = "logits"
    """What the network returns; labels are the number of one class an image."""

    def describe(self) -> dict[str, Any]:
        """Return the steps as plain data."""
        return {
            "input_range": list(self.input_range),
            "mean": list(self.mean) if self.mean else None,
            "std": list(self.std) if self.std else None,
            "channel_order": self.channel_order,
            "layout": self.layout,
            "outputs": self.outputs,
        }

    def inputs(self, images: Tensor) -> Tensor:
        """Return what the network takes for images (N, C, H, W) in [0, 1]."""
        low, high = self.input_range
        if (low, high) != (0.0, 1.0):
            images = images * (high - low) + low
        if self.mean is not None:
            images = images - _per_channel(self.mean, images)
        if self.std is not None:
            images = images / _per_channel(self.std, images)
        if self.channel_order == "bgr":
            images = images.flip(1)
        return images.permute(0, 2, 3, 1) if self.layout == "nhwc" else images

    def logits(self, outputs: object) -> Tensor:
        """Return scores (N, K) from what the network returned: a tensor, a tuple that starts with one, or `.logits`.

        Labels are left as they are, but for their shape: (N, 1).
        """
        if isinstance(outputs, tuple | list) and outputs:
            outputs = outputs[0]
        scores = getattr(outputs, "logits", outputs)
        if not isinstance(scores, Tensor):
            raise TypeError(f"a classifier returns a tensor of scores; got {type(scores).__name__}")
        if scores.dim() == 4 and scores.shape[2:] == (1, 1):
            scores = scores.flatten(1)
        if self.outputs == "labels":
            return scores.unsqueeze(1) if scores.dim() == 1 else scores
        return scores.clamp_min(_SMALLEST_PROBABILITY).log() if self.outputs == "probabilities" else scores


def _per_channel(values: tuple[float, ...], images: Tensor) -> Tensor:
    if len(values) not in (1, images.shape[1]):
        raise UsageError(f"--mean and --std need one number, or one a channel ({images.shape[1]}); got {len(values)}")
    return torch.tensor(values, dtype=images.dtype, device=images.device).view(1, -1, 1, 1)


class Preprocessed(nn.Module):
    """A network with its preprocessing in front: images (N, C, H, W) in [0, 1] to logits (N, K)."""

    def __init__(self, network: nn.Module, steps: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.steps = steps

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K)."""
        return self.steps.logits(self.network(self.steps.inputs(images)))


def copied(network: Preprocessed) -> Preprocessed:
    """Return a copy that shares nothing with the network."""
    # Without gradients, for TorchScript's copies would otherwise remember what they were copied from. Copying an
    # exported program warns of torch's own doings.
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return copy.deepcopy(network)


def frozen_copy(network: Preprocessed) -> Preprocessed:
    """Return a copy whose weights take no gradient; the network itself where it cannot be copied."""
    try:
        frozen = copied(network)
    except Exception:
        # A network that cannot be copied is only read: it stays in the mode and with the flags that it has.
        return network
    return frozen.requires_grad_(False)


def parse_range(text: str) -> tuple[float, float]:
    """Read `255` (0 to 255), `1`, or `-1,1`.

    Raises:
        UsageError: it is none of these, or the range is empty.
    """
    parts = _numbers(text, "--input-range is a largest value such as 255, or two numbers such as -1,1")
    low, high = (0.0, parts[0]) if len(parts) == 1 else (parts[0], parts[-1])
    if len(parts) > 2 or low >= high:
        raise UsageError(f"--input-range is a largest value such as 255, or two numbers such as -1,1; got {text!r}")
    return low, high


def parse_channels(text: str, option: str) -> tuple[float, ...]:
    """Read one number, or one a channel: `0.485,0.456,0.406`; or `imagenet`.

    Raises:
        UsageError: it is something else.
    """
    if text.strip().lower() == "imagenet":
        return IMAGENET_MEAN if option == "--mean" else IMAGENET_STD
    values = _numbers(text, f"{option} is one number, one a channel such as 0.485,0.456,0.406, or imagenet")
    if option == "--std" and any(value <= 0 for value in values):
        raise UsageError(f"--std is positive; got {text!r}")
    return values


def _numbers(text: str, wanted: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        values = ()
    if not values:
        raise UsageError(f"{wanted}; got {text!r}")
    return values
