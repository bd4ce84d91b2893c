"""Train a small network on images, and on what an audit exported: `python train.py FILE --data FILE [--add FOLDER]`."""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10
BATCH = 64


class SmallNet(nn.Module):
    """Reads images float (N, 3, H, W) in [0, 1], and returns logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
            convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(64, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 10)."""
        logits: Tensor = self.classifier(self.features(images - 0.5).mean((2, 3)))
        return logits


def network(weights: str | os.PathLike[str]) -> SmallNet:
    """Return the trained network, as `auditkit run train.py:network --weights FILE` asks for it."""
    trained = SmallNet()
    trained.load_state_dict(load_file(weights))
    return trained.eval()


def images_of(archive: Path) -> tuple[Tensor, Tensor]:
    """Return uint8 images (N, 3, H, W) and labels (N,) of an .npz file."""
    with np.load(archive) as arrays:
        return torch.from_numpy(arrays["x"]).permute(0, 3, 1, 2), torch.from_numpy(arrays["y"])


def exported_by(folder: Path) -> tuple[Tensor, Tensor]:
    """Return the hard and the attacked images that an audit exported, with their true labels."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    if not lines:
        raise SystemExit(f"{folder}: the audit exported no image; there is nothing to learn from")
    pixels = [np.asarray(Image.open(folder / line["file"])) for line in lines]
    labels = [int(line["label"]) for line in lines]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2), torch.tensor(labels)


def train(images: Tensor, labels: Tensor, steps: int, seed: int) -> SmallNet:
    """Return a network trained on uint8 images (N, 3, H, W) for so many steps, however many images there are."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    trained = SmallNet()
    optimiser = torch.optim.AdamW(trained.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=6e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(labels), (BATCH,), generator=generator)
        loss = functional.cross_entropy(trained(images[rows] / 255), labels[rows])
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
        schedule.step()
    return trained


def main() -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path, help="the file to write")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--add", type=Path, help="a folder that `auditkit run --export` wrote")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    images, labels = images_of(options.data)
    if options.add is not None:
        more, their_labels = exported_by(options.add)
        images, labels = torch.cat([images, more]), torch.cat([labels, their_labels])
    save_file(train(images, labels, options.steps, options.seed).state_dict(), options.weights)
    print(f"{options.weights}: {options.steps} steps on {len(labels)} images")


if __name__ == "__main__":
    main()
