"""Makes the demo's two data files: `python -m auditkit.demo.train --out DIR`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from auditkit.demo import IMAGES, WEIGHTS
from auditkit.demo.network import SignNet
from auditkit.demo.signs import CLASS_NAMES, SignImages, render_signs

__all__ = ["main"]

_TRAINING_IMAGES = 12_000
_HELD_OUT_IMAGES = 2_000
_DEMO_IMAGES = 200
_EPOCHS = 10
_BATCH = 64
_PEAK_RATE = 6e-3
_LARGEST_SHIFT = 2


@dataclass(frozen=True)
class _Batches:
    """Images uint8 (N, 3, 32, 32) in 0..255 and labels int64 (N,), as tensors."""

    images: Tensor
    labels: Tensor

    @classmethod
    def of(cls, signs: SignImages) -> _Batches:
        images = torch.from_numpy(signs.images).permute(0, 3, 1, 2).contiguous()
        return cls(images, torch.from_numpy(signs.labels))


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Output folder.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of it all.")
def main(out: Path, seed: int) -> None:
    """Render signs, train the network on them, and write its weights and 200 test images."""
    # Consecutive seeds of `render_signs` for the three sets, so that no two runs share any.
    training, held_out, demo = (3 * seed + offset for offset in range(3))
    click.echo(f"rendering {_TRAINING_IMAGES} training images")
    signs = _Batches.of(render_signs(_TRAINING_IMAGES, training))
    began = time.monotonic()
    network = _train(signs, seed)
    click.echo(f"trained in {time.monotonic() - began:.0f} s")
    shown = render_signs(_DEMO_IMAGES, demo)
    for name, images in (("held-out", render_signs(_HELD_OUT_IMAGES, held_out)), ("demo", shown)):
        click.echo(f"{name} accuracy: {_accuracy(network, _Batches.of(images)):.4f} of {len(images.labels)}")
    out.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), out / WEIGHTS.name)
    names = np.array(CLASS_NAMES)
    np.savez_compressed(out / IMAGES.name, x=shown.images, y=shown.labels, masks=shown.masks, names=names)


def _train(signs: _Batches, seed: int) -> SignNet:
    """A network trained on the signs, in evaluation mode."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = SignNet(len(CLASS_NAMES))
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    batches = len(signs.labels) // _BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, max_lr=_PEAK_RATE, epochs=_EPOCHS, steps_per_epoch=batches
    )
    for epoch in range(_EPOCHS):
        order = torch.randperm(len(signs.labels), generator=generator)
        losses = []
        for chosen in order[: batches * _BATCH].view(batches, _BATCH):
            logits = network(_augmented(signs.images[chosen], generator))
            loss = functional.cross_entropy(logits, signs.labels[chosen], label_smoothing=0.05)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        click.echo(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}")
    return network.eval()


@torch.inference_mode()
def _accuracy(network: SignNet, signs: _Batches) -> float:
    """The share of signs that the network reads right."""
    right = network(signs.images / 255).argmax(dim=1) == signs.labels
    return float(right.double().mean())


def _augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Floats in [0, 1] from uint8 images: the batch shifted as one, each channel brightened apart."""
    down, right = torch.randint(-_LARGEST_SHIFT, _LARGEST_SHIFT + 1, (2,), generator=generator).tolist()
    shifted = torch.roll(images / 255, (down, right), dims=(2, 3))
    gain = 1 + 0.1 * torch.randn(len(images), 3, 1, 1, generator=generator)
    return (shifted * gain).clamp(0, 1).contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
