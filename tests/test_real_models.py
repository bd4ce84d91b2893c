"""The shared networks have the accuracies that were measured with other tools."""

from __future__ import annotations

from pathlib import Path

import pytest

from auditkit import Capability
from auditkit.config import settings_from
from auditkit.preparing import set_up
from auditkit.workbench import Recipe

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
CIFAR = SHARED / "cifar10"


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"NO REAL MODELS: {CIFAR} is absent")
@pytest.mark.parametrize(
    ("model", "weights", "correct"),
    [
        ("resnet20.pt", None, 551),
        (f"{SHARED / 'models.py'}:CifarResNet", "resnet20.safetensors", 551),
        (f"{SHARED / 'models.py'}:resnet20", "resnet20.safetensors", 551),
        ("resnet20.onnx", None, 551),
        ("resnet20_int8.onnx", None, 551),
        ("resnet2b.onnx", None, 421),
    ],
)
def test_clean_accuracy(model, weights, correct):
    settings = settings_from(
        {"weights": CIFAR / weights if weights else None, "precision": "float32", "device": "cpu", "shard": 600}
    )
    name = model if ":" in model else CIFAR / model
    bench = set_up(Recipe(name, str(CIFAR / "images_600.npz"), settings))
    samples = bench.read(0, 600).samples
    assert int((bench.model.logits(samples.images).argmax(1) == samples.labels).sum()) == correct
    assert Capability.GRADIENTS in bench.model.capabilities, bench.model.no_gradients
