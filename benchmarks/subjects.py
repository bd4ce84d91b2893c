"""The networks and images that benchmarks are run on, and the plain count of what an attack left."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from auditkit.config import settings_from
from auditkit.models.base import Model
from auditkit.preparing import set_up
from auditkit.samples import Samples
from auditkit.workbench import Recipe, Workbench

BATCH = 128
CIFAR10 = Path(__file__).parents[2] / "shared" / "data" / "cifar10"


@dataclass(frozen=True)
class Subject:
    """A model as an audit sees it, its plain float32 network for the peers, and the images."""

    name: str
    bench: Workbench
    model: Model
    network: nn.Module
    samples: Samples


def arguments(description: str | None, images: int) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--cifar10", type=Path, default=CIFAR10)
    return parser


def subject(folder: Path, name: str, images: int) -> Subject:
    """Open `name`.onnx of `folder` on the first images of `images_600.npz` there."""
    settings = settings_from({"limit": images, "batch": BATCH, "shard": images})
    bench = set_up(Recipe(str(folder / f"{name}.onnx"), str(folder / "images_600.npz"), settings))
    assert bench.model.exact is not None
    return Subject(name, bench, bench.model, bench.model.exact.network, bench.read(0, images).samples)


def survivors(of: Subject, attacked: Tensor, eps: float, norm: str = "linf") -> Tensor:
    """Return bool (N,): right before and after by the plain network; a point outside the budget does not count."""
    change = (attacked - of.samples.images).flatten(1)
    length = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    inside = length <= eps * (1 + 1e-5) + 1e-6
    with torch.no_grad():
        clean = torch.cat([of.network(part).argmax(1) for part in of.samples.images.split(BATCH)])
        after = torch.cat([of.network(part).argmax(1) for part in attacked.split(BATCH)])
    correct = clean == of.samples.labels
    return correct & ~(inside & (after != of.samples.labels))
