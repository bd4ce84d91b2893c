"""The quick copy: the scores of the deployed model but for rounding, in any batch, and only where that was seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import auditkit.models.prepare as prepare
from auditkit import ExecutionError
from auditkit.config import settings_from
from auditkit.models.prepare import folded_copy, quick_copy
from auditkit.models.preprocess import Preprocessing
from auditkit.models.torch_files import load_module
from auditkit.models.tryout import try_out
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.testing import toy_model, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins.random_noise import UniformNoise

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
CPU = torch.device("cpu")


def convolutional(seed=0, channels=3):
    """Return a network with batch norm, whose weights are drawn without touching torch's own generator."""
    network = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
        network[1].running_mean.normal_(0, 1, generator=generator)
        network[1].running_var.uniform_(0.1, 3, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def samples():
    return toy_samples(40, network=convolutional())


@pytest.fixture(scope="module")
def model(samples):
    model = toy_model(convolutional(), samples.images)
    return replace(model, quick=quick_copy(model, folded_copy(model, samples.images), samples.images))


def test_the_scores_are_the_deployed_ones_but_for_rounding(model, samples):
    assert model.quick.description == "float32, batch norm folded, channels last"
    assert not [module for module in model.quick.network.modules() if isinstance(module, nn.BatchNorm2d)]
    deployed, quick = model.logits(samples.images), model.quick_logits(samples.images)
    assert not torch.equal(deployed, quick)
    assert (deployed - quick).abs().max() <= 1e-5 * deployed.abs().max()


def test_verdicts_do_not_come_from_it(model, samples):
    assert torch.equal(model.logits(samples.images), replace(model, quick=None).logits(samples.images))


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_row_has_the_same_bits_in_any_batch(model, samples, batch):
    wanted = model.quick_logits(samples.images)
    other = replace(model, quick=replace(model.quick, batch=batch))
    assert torch.equal(other.quick_logits(samples.images), wanted)
    assert torch.equal(other.quick_logits(samples.images.flip(0)).flip(0), wanted)


def test_a_copy_that_disagrees_is_not_taken(model, samples):
    near = folded_copy(model, samples.images)
    for scale, taken in ((1 + 1e-6, True), (1 + 1e-3, False)):
        network = convolutional()
        with torch.no_grad():
            network[4].weight.mul_(scale)
        other = toy_model(network, samples.images).exact
        assert (quick_copy(model, replace(near, network=other.network), samples.images) is not None) == taken


def test_a_copy_with_other_labels_is_not_taken():
    """Two scores that rounding alone tells apart are decided by the deployed model."""

    class Tied(nn.Module):
        def __init__(self, lead):
            super().__init__()
            self.lead = lead

        def forward(self, images):
            mean = images.flatten(1).mean(1)
            return torch.stack([mean, mean + self.lead], 1)

    samples = toy_samples(8)
    model = toy_model(Tied(1e-7), samples.images)
    same, other = (toy_model(Tied(lead), samples.images).exact for lead in (1e-7, -1e-7))
    assert quick_copy(model, same, samples.images) is not None
    assert quick_copy(model, other, samples.images) is None


def test_nan_is_an_error_here_too():
    class Fragile(nn.Module):
        def forward(self, images):
            mean = images.flatten(1).mean(1)
            return torch.stack([mean, (mean - 0.1).sqrt()], 1)

    samples = toy_samples(8)
    model = toy_model(Fragile(), samples.images)
    model = replace(model, quick=quick_copy(model, folded_copy(model, samples.images), samples.images))
    assert model.quick is not None
    with pytest.raises(ExecutionError, match="NaN scores"):
        model.quick_logits(torch.zeros_like(samples.images))


def test_without_a_copy_and_without_images_it_is_the_deployed_model(samples):
    model = toy_model(convolutional(), samples.images)
    assert torch.equal(model.quick_logits(samples.images), model.logits(samples.images))
    assert model.quick_logits(samples.images[:0]).shape == (0, 5)
    folded = folded_copy(model, samples.images)
    assert replace(model, quick=folded).quick_logits(samples.images[:0]).shape == (0, 5)


def test_models_without_gradients_or_scores_have_none(samples):
    labels = try_out(load_module(Answers(), CPU), Preprocessing(outputs="labels"), samples.images, CPU, 16, 5)
    assert folded_copy(labels, samples.images) is None
    assert quick_copy(labels, None, samples.images) is None
    assert labels.quick_logits(samples.images).sum() == len(samples)


class Answers(nn.Module):
    def forward(self, images):
        return convolutional()(images).argmax(1)


def saved(tmp_path, samples):
    path = tmp_path / "images.npz"
    np.savez(path, x=(samples.images * 255).round().byte().numpy(), y=samples.labels.numpy())
    return path


def bench_of(network, tmp_path, samples, **settings):
    settings = settings_from({"batch": 32, "device": "cpu", "precision": "float32"} | settings)
    return set_up(Recipe(network, str(saved(tmp_path, samples)), settings))


def test_the_network_is_folded_once_for_all_copies(tmp_path, samples, monkeypatch):
    folds = []
    fold = prepare.folded_differentiable
    monkeypatch.setattr(prepare, "folded_differentiable", lambda *given: folds.append(1) or fold(*given))
    bench = bench_of(convolutional(), tmp_path, samples)
    assert folds == [1]
    assert bench.model.quick.network is bench.search.network
    assert bench.search.description == bench.model.quick.description


def test_a_smaller_batch_holds_for_the_quick_copy_too(tmp_path, samples):
    """Else an audit that ran out of memory would run out of it again."""
    bench = bench_of(convolutional(), tmp_path, samples)
    seen = []

    class Greedy(UniformNoise):
        def run(self, model, samples, ctx):
            seen.append((model.batch, model.quick.batch))
            if model.batch > 8:
                raise MemoryError
            return super().run(model, samples, ctx)

    planned = replace(configure(UniformNoise, {}, "noise.uniform", "test"), check=Greedy())
    bench.run(planned, bench.read(0, 4).samples, lambda n: None)
    assert seen == [(32, 32), (16, 16), (8, 8)]


def test_probabilities_become_scores_in_the_quick_copy_too(tmp_path, samples):
    network = nn.Sequential(convolutional(), nn.Softmax(1)).eval()
    bench = bench_of(network, tmp_path, samples, outputs="probabilities")
    images = bench.read(0, 8).samples.images
    assert bench.model.quick is not None
    torch.testing.assert_close(bench.model.quick_logits(images).exp().sum(1), torch.ones(8), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"NO REAL MODELS: {CIFAR} is absent")
@pytest.mark.parametrize(("name", "quick"), [("resnet20.pt", True), ("resnet20.onnx", False)])
def test_an_onnx_model_is_asked_itself(name, quick):
    settings = settings_from({"limit": 20, "batch": 32, "device": "cpu", "precision": "float32"})
    bench = set_up(Recipe(str(CIFAR / name), str(CIFAR / "images_600.npz"), settings))
    images = bench.read(0, 20).samples.images
    assert (bench.model.quick is not None) == quick
    wanted, got = bench.model.logits(images), bench.model.quick_logits(images)
    assert (wanted - got).abs().max() <= 1e-5 * wanted.abs().max()
    assert quick or torch.equal(wanted, got)
