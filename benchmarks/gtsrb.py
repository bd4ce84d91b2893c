"""Train a small network on real traffic signs, so that sticker results stand on something that people put stickers on.

    python -m benchmarks.gtsrb --out FOLDER [--gtsrb FOLDER] [--epochs 20]
    auditkit run benchmarks/gtsrb.py:network --weights FOLDER/gtsrb.safetensors --data .../gtsrb/test_1000.npz

It takes a few minutes on two cores. The images (GTSRB, Stallkamp et al. 2012) are not part of this project.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from auditkit.demo.network import SignNet

CLASSES = 43
GTSRB = Path(__file__).parents[2] / "shared" / "data" / "gtsrb"

_BATCH = 64
_PEAK_RATE = 6e-3
_LARGEST_SHIFT = 3
# How many lines a training prints at most, about.
_REPORTS = 20


def network(weights: str | os.PathLike[str]) -> SignNet:
    """Return the trained network, in evaluation mode: images float (N, 3, 32, 32) in [0, 1] to logits (N, 43)."""
    signs = SignNet(CLASSES)
    signs.load_state_dict(load_file(weights))
    return signs.eval()


def images_of(file: Path) -> tuple[Tensor, Tensor]:
    """Return images float32 (N, 3, 32, 32) in [0, 1] and labels int64 (N,)."""
    with np.load(file) as arrays:
        images, labels = arrays["x"], arrays["y"]
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() / 255, torch.from_numpy(labels)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images (N, C, H, W), each moved by some pixels, darker or lighter, and of more or less contrast."""
    n, _, height, width = images.shape
    moves = torch.randint(-_LARGEST_SHIFT, _LARGEST_SHIFT + 1, (2, n, 1), generator=generator)
    rows = (torch.arange(height) + moves[0]).clamp(0, height - 1)
    columns = (torch.arange(width) + moves[1]).clamp(0, width - 1)
    moved = images[torch.arange(n).view(-1, 1, 1), :, rows.unsqueeze(2), columns.unsqueeze(1)].permute(0, 3, 1, 2)
    gain = torch.exp(0.3 * torch.randn(n, 1, 1, 1, generator=generator))
    offset = 0.1 * torch.randn(n, 1, 1, 1, generator=generator)
    return (moved * gain + offset).clamp(0, 1)


def train(images: Tensor, labels: Tensor, epochs: int) -> SignNet:
    """Return a network trained on these images, in evaluation mode."""
    torch.manual_seed(0)
    signs = SignNet(CLASSES)
    fit(signs, images, labels, epochs=epochs, generator=torch.Generator().manual_seed(0))
    return signs


def fit(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    generator: torch.Generator,
    batch: int = _BATCH,
) -> None:
    """Train a network on images (N, 3, H, W) in [0, 1] with labels (N,), and leave it in evaluation mode.

    All chance, that of the order and of the augmentation, comes from the generator. Images that fill no batch wait for
    a later epoch.
    """
    network.train()
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    batches = len(labels) // batch
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=_PEAK_RATE, epochs=epochs, steps_per_epoch=batches)
    for epoch in range(epochs):
        order = torch.randperm(len(labels), generator=generator)
        total = 0.0
        for rows in order[: batches * batch].view(batches, batch):
            loss = functional.cross_entropy(network(augmented(images[rows], generator)), labels[rows])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        if (epoch + 1) % max(1, epochs // _REPORTS) == 0:
            print(f"epoch {epoch + 1}: loss {total / batches:.4f}", flush=True)
    network.eval()


@torch.inference_mode()
def accuracy(signs: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share that the network reads right."""
    return float((signs(images).argmax(1) == labels).double().mean())


def main() -> None:
    """Train, print the accuracy on the test images, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gtsrb", type=Path, default=GTSRB)
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    began = time.monotonic()
    signs = train(*images_of(options.gtsrb / "train_6000.npz"), options.epochs)
    score = accuracy(signs, *images_of(options.gtsrb / "test_1000.npz"))
    print(f"accuracy on the test images: {score:.2%}, after {time.monotonic() - began:.0f} s")
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(signs.state_dict(), options.out / "gtsrb.safetensors")


if __name__ == "__main__":
    main()
