"""Train a small network with Lightning, and audit it when the fit is done: `python train.py`."""

from __future__ import annotations

import sys

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from auditkit.demo.signs import render_signs
from auditkit.integrations.lightning import AuditCallback, AuditFailed

CLASSES = 10
EPOCHS = 2
TRAINED, HELD_OUT = 200, 60


class SignClassifier(pl.LightningModule):
    """Reads images float (N, 3, H, W) in [0, 1], and returns logits (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
            *(nn.Flatten(), nn.Linear(32, CLASSES)),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, 10)."""
        logits: Tensor = self.network(images)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss."""
        images, labels = batch
        loss = functional.cross_entropy(self(images), labels)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def signs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return rendered images (N, 3, 32, 32) in [0, 1] and their labels (N,)."""
    rendered = render_signs(count, seed)
    return torch.from_numpy(rendered.images).permute(0, 3, 1, 2) / 255, torch.from_numpy(rendered.labels)


def main() -> None:
    """Train and audit; leave with the exit code of the audit if it is not passed."""
    torch.manual_seed(0)
    audit = AuditCallback(
        signs(HELD_OUT, seed=2),  # images that the network does not learn from
        gates=["noise.gaussian/clean_accuracy >= 90%"],
        network="network",
    )
    trainer = pl.Trainer(
        max_epochs=EPOCHS, accelerator="cpu", callbacks=[audit], logger=CSVLogger("."), log_every_n_steps=1
    )
    try:
        trainer.fit(SignClassifier(), DataLoader(TensorDataset(*signs(TRAINED, seed=1)), batch_size=32, shuffle=True))
    except AuditFailed as error:
        print(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
