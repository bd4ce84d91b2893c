"""ResNet-20 in every format has the same sites and the same bounds, and bounding it costs what was measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from auditkit.bounding import (
    activation_quantiles,
    bounded_copy,
    bounded_onnx,
    find_onnx_sites,
    find_sites,
    onnx_twin_with_sites,
    save_bounded,
    train_bounds,
)
from auditkit.models.open import load_model

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
pytestmark = pytest.mark.skipif(not CIFAR.is_dir(), reason=f"NO REAL MODELS: {CIFAR} is absent")

# The relus of the three stages: one at the start, two a block.
SHAPES = [(16, 32, 32)] * 7 + [(32, 16, 16)] * 6 + [(64, 8, 8)] * 6


def pictures(name, count):
    with np.load(CIFAR / name) as stored:
        images = torch.from_numpy(stored["x"][:count]).permute(0, 3, 1, 2).float() / 255
        return images, torch.from_numpy(stored["y"][:count])


@pytest.fixture(scope="module")
def eager():
    spec = importlib.util.spec_from_file_location("shared_models", CIFAR.parent / "models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.resnet20(CIFAR / "resnet20.safetensors")


@pytest.fixture(scope="module")
def quantiles(eager):
    return activation_quantiles(eager, pictures("train_2000.npz", 200)[0].split(50), (0.99, 0.999))


def run(model, images):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"image": images.numpy()})[0])


def test_sites_are_the_same_in_every_format(eager):
    images, _ = pictures("images_600.npz", 4)
    script = load_model(CIFAR / "resnet20.pt", device=torch.device("cpu")).network
    names = ["relu"] + [
        f"layer{stage}.{block}.relu{call}" for stage in (1, 2, 3) for block in range(3) for call in ("", ":2")
    ]
    for network in (eager, script):
        assert [site.name for site in find_sites(network, images)] == names
    for file in ("resnet20.onnx", "resnet20_int8.onnx"):
        graph = onnx.load(CIFAR / file)
        twin = onnx_twin_with_sites(graph)
        assert [site.shape for site in find_onnx_sites(graph)] == SHAPES
        assert [site.shape for site in find_sites(twin, images)] == SHAPES
        assert [site.name for site in find_sites(twin, images)] == [site.name for site in find_onnx_sites(graph)]
    assert [site.shape for site in find_sites(eager, images)] == SHAPES


@pytest.mark.parametrize("overflow", ["fold", "leak", "clip"])
def test_bounded_formats_agree(eager, quantiles, overflow):
    images, _ = pictures("images_600.npz", 100)
    bounds = quantiles.bounds(0.99)
    script = load_model(CIFAR / "resnet20.pt", device=torch.device("cpu")).network
    with torch.no_grad():
        wanted = bounded_copy(eager, images, bounds, overflow).network(images)
        by_script = bounded_copy(script, images, bounds, overflow).network(images)
    deployed = run(bounded_onnx(onnx.load(CIFAR / "resnet20.onnx"), bounds, overflow).model, images)
    scale = wanted.abs().max()
    assert (by_script - wanted).abs().max() <= 1e-5 * scale
    assert (deployed - wanted).abs().max() <= 1e-5 * scale
    with torch.no_grad():
        assert (eager(images) - wanted).abs().max() > 1e-2 * scale


def test_infinite_bounds_change_no_bit(eager):
    images, _ = pictures("images_600.npz", 32)
    free = [float("inf")] * len(SHAPES)
    with torch.no_grad():
        assert torch.equal(bounded_copy(eager, images, free).network(images), eager(images))
    for file in ("resnet20.onnx", "resnet20_int8.onnx"):
        graph = onnx.load(CIFAR / file)
        assert torch.equal(run(bounded_onnx(graph, free).model, images), run(graph, images))


def test_clean_accuracy_stays_near_the_top_of_the_activations_and_falls_below(eager, quantiles):
    images, labels = pictures("images_600.npz", 300)
    strict = activation_quantiles(eager, pictures("train_2000.npz", 200)[0].split(50), (0.9,))
    accuracies = []
    for bounds in (quantiles.bounds(0.999), quantiles.bounds(0.99), strict.bounds(0.9)):
        network = bounded_copy(eager, images, bounds, "clip").network
        with torch.no_grad():
            accuracies.append(float((network(images).argmax(1) == labels).float().mean()))
    with torch.no_grad():
        clean = float((eager(images).argmax(1) == labels).float().mean())
    assert accuracies[0] >= clean - 0.01
    assert accuracies[1] >= clean - 0.03
    assert accuracies[2] < clean - 0.2


def test_the_quantised_graph_is_bounded_like_the_float_one(quantiles):
    images, _ = pictures("images_600.npz", 200)
    bounds = quantiles.bounds(0.99)
    float_, quantised = (
        run(bounded_onnx(onnx.load(CIFAR / file), bounds, "clip").model, images)
        for file in ("resnet20.onnx", "resnet20_int8.onnx")
    )
    assert (float_.argmax(1) == quantised.argmax(1)).float().mean() >= 0.97


def test_bounds_learn_and_the_result_is_a_file(eager, quantiles, tmp_path):
    images, labels = pictures("train_2000.npz", 128)
    before = bounded_copy(eager, images, quantiles.bounds(0.999), "clip")
    generator = torch.Generator().manual_seed(0)
    after = train_bounds(before, images, labels, generator=generator, epochs=1, rate=0.1)
    assert sum(float(bound.sum()) for bound in after.bounds()) < sum(float(bound.sum()) for bound in before.bounds())
    save_bounded(after, images[:4], tmp_path / "hard.pt")
    graph = bounded_onnx(onnx.load(CIFAR / "resnet20.onnx"), after.bounds(), "clip").model
    with torch.no_grad():
        wanted = after.network(images)
    assert (run(graph, images) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
