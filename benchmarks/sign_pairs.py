"""Traffic signs, and two networks that read them and differ in their activations only: for the seed experiment."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from auditkit.bounding import BoundedLeakyReLU, UpperBound
from auditkit.demo.network import SignNet
from benchmarks.gtsrb import CLASSES, images_of

STOP, SPEED_LIMIT_50 = 14, 2
SLOPE = 0.01
"""Of the bounded unit, beyond the bound; the talk does not state it."""

# Where images are few, one track of three is learned from: a track shows one physical sign.
_TRACKS = 3
_CHUNK = 256


@dataclass(frozen=True)
class Way:
    """One of the talk's two experiments."""

    name: str
    classes: tuple[int, ...]
    """Classes of GTSRB; they are numbered anew in this order."""
    talk: tuple[float, float, float, float]
    """What the talk states for `CELLS`, in percent."""
    epochs: int
    batch: int
    holds_out_tracks: bool
    """Whether most tracks of the training images are held out, beside the test images, which are few."""
    names: tuple[str, ...] = ()
    """What to call the classes, where they are few enough to be told apart in the table."""


WAYS = {
    "two": Way(
        name="two-way",
        classes=(STOP, SPEED_LIMIT_50),
        talk=(3, 0, 91, 6),
        epochs=200,
        batch=24,
        holds_out_tracks=True,
        names=("stop", "speed limit 50"),
    ),
    "forty": Way(
        name="forty-way",
        classes=tuple(range(CLASSES)),
        talk=(17, 0, 80.5, 2.5),
        epochs=10,
        batch=64,
        holds_out_tracks=False,
    ),
}


@dataclass(frozen=True)
class Signs:
    """Images float32 (N, 3, 32, 32) in [0, 1], and labels int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Signs:
        return Signs(self.images[rows], self.labels[rows])


def fresh_network(classes: int, generator: torch.Generator) -> SignNet:
    """Return a network with random weights, all of them from the generator; no other generator is read or set."""
    with torch.device("meta"):
        network = SignNet(classes)
    network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return network


def with_bounds(network: SignNet, bound: float, lower_slope: float) -> SignNet:
    """Return a copy with a bounded leaky ReLU, whose bound learns, in the place of each ReLU; its weights are equal.

    Args:
        network: it is not changed.
        bound: where each bound begins; behind batch norm, 3 cuts off about one in a thousand values at first.
        lower_slope: the slope below zero: 0.01 in the talk's unit, 0 in a ReLU.
    """
    bounded = copy.deepcopy(network)
    for place, module in enumerate(bounded.features):
        if isinstance(module, nn.ReLU):
            bounded.features[place] = BoundedLeakyReLU(bound, SLOPE, "fold", negative_slope=lower_slope, trainable=True)
    return bounded


def settled(bounded: nn.Module) -> tuple[float, ...]:
    """Fix all bounds at what they have learned, and return them, first layer first."""
    bounds = []
    for module in bounded.modules():
        if isinstance(module, UpperBound):
            module.settle()
            bounds.append(float(module.bound))
    return tuple(bounds)


def signs_for(way: Way, folder: Path) -> tuple[Signs, Signs]:
    """Return the images to learn from and the held-out ones; no physical sign is on both sides."""
    images, labels = images_of(folder / "train_6000.npz")
    with np.load(folder / "train_6000.npz") as arrays:
        track = torch.from_numpy(arrays["track"].astype(np.int64))
    learning, tests = Signs(images, labels), Signs(*images_of(folder / "test_1000.npz"))
    if not way.holds_out_tracks:
        return _numbered(learning, way), _numbered(tests, way)
    kept = track % _TRACKS == 0
    beside = learning[~kept]
    held_out = Signs(torch.cat([tests.images, beside.images]), torch.cat([tests.labels, beside.labels]))
    return _numbered(learning[kept], way), _numbered(held_out, way)


def _numbered(signs: Signs, way: Way) -> Signs:
    """Return the images of the way's classes, with labels 0, 1, ... in the order of its classes."""
    number = torch.full((CLASSES,), -1)
    number[list(way.classes)] = torch.arange(len(way.classes))
    chosen = number[signs.labels] >= 0
    return Signs(signs.images[chosen], number[signs.labels[chosen]])


@torch.inference_mode()
def is_correct(network: nn.Module, signs: Signs) -> Tensor:
    """Return bool (N,)."""
    classes = [network(images).argmax(1) for images in torch.split(signs.images, _CHUNK)]
    return torch.cat(classes) == signs.labels
