from __future__ import annotations

from pathlib import Path

import pytest
import torch

from auditkit.models.open import load_model
from auditkit.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from auditkit.models.tryout import try_out
from auditkit.preflight import preflight
from auditkit.samples import open_dataset

CPU = torch.device("cpu")
SHARED = Path(__file__).parents[3] / "shared" / "data"

CASES = {
    "resnet20": ("cifar10/resnet20.onnx", "cifar10/images_600.npz"),
    "resnet20 int8": ("cifar10/resnet20_int8.onnx", "cifar10/images_600.npz"),
    "resnet2b": ("cifar10/resnet2b.onnx", "cifar10/images_600.npz"),
    "lisa": ("lisa/lisa_cnn.onnx", "lisa/stop_signs_20.npz"),
}


def _needs(*names: str) -> None:
    missing = [name for name in names if not (SHARED / name).exists()]
    if missing:
        pytest.skip(f"missing in {SHARED}: {', '.join(missing)}")


def test_demo_has_nothing_to_say(network, signs, examine):
    found = examine(network, signs)
    assert found.diagnoses == ()
    # A healthy network is asked about each image once or twice and about 32 of them five times, and no more.
    assert found.rows <= 3 * 200


@pytest.mark.parametrize("case", CASES)
def test_real_networks_raise_no_alarm(case, examine):
    _needs(*CASES[case])
    model, data = CASES[case]
    dataset = open_dataset(str(SHARED / data), limit=256)
    found = examine(SHARED / model, dataset.read(0, len(dataset)).samples, class_names=dataset.class_names)
    assert not found.warnings


@pytest.mark.parametrize("n", [5, 20, 60])
def test_few_images_raise_no_alarm(n, network, signs, examine):
    assert not examine(network, signs.take(range(n))).warnings


def test_real_network_fed_wrongly(examine):
    _needs("models.py", "cifar10/resnet20.safetensors", "cifar10/images_600.npz")
    samples = open_dataset(str(SHARED / "cifar10/images_600.npz")).read(0, 60).samples
    weights = SHARED / "cifar10/resnet20.safetensors"
    loaded = load_model(f"{SHARED / 'models.py'}:resnet20", weights=weights, device=CPU)
    found = examine(loaded, samples, Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD))
    assert set(found.warnings) == {"preflight.normalisation"}
    assert found.line == ""
    assert found.before < 0.3
    assert found.after > 0.88


def test_notes_are_those_of_the_diagnoses(colour_net, colours, examine):
    steps = Preprocessing((0.0, 255.0))
    found = examine(colour_net, colours, steps)
    model = try_out(found.loaded, steps, colours.images[:16], CPU, 24)
    notes = preflight(found.loaded, steps, model, colours)
    assert notes == tuple(each.note for each in found.diagnoses)
    assert notes[0].level == "warning"
