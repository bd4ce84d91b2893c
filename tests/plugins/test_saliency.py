"""Saliency maps: bit-equal to their definition and to Captum's, over raw pixels and unnormalised scores."""

from __future__ import annotations

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

from auditkit import saliency
from auditkit.models.preprocess import Preprocessing
from auditkit.models.torch_files import load_module
from auditkit.models.tryout import try_out
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit_plugins.saliency_map import Saliency


@pytest.fixture(scope="module")
def network():
    generator = torch.Generator().manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 16, 5))
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return conv.eval()


@pytest.fixture(scope="module")
def samples(network):
    return toy_samples(16, seed=3, network=network)


@pytest.mark.parametrize("classes", ["labels", "others"])
def test_a_map_is_captums_saliency(network, samples, classes):
    chosen = samples.labels if classes == "labels" else (samples.labels + 2) % 5
    model = toy_model(network, samples.images)
    maps = saliency(model.exact, samples.images, chosen)
    images = samples.images.clone().requires_grad_()
    wanted = captum.attr.Saliency(network).attribute(images, target=chosen, abs=True).amax(1)
    assert maps.shape == (16, 8, 8)
    assert torch.equal(maps, wanted)


def test_on_a_linear_model_a_map_is_the_weights():
    linear = LinearModel(classes=3, seed=0)
    samples = toy_samples(9, network=linear)
    maps = saliency(toy_model(linear, samples.images).exact, samples.images, samples.labels)
    weights = linear.weight.detach().view(3, 3, 8, 8).abs().amax(1)
    assert torch.allclose(maps, weights[samples.labels], rtol=1e-6)


def test_the_gradient_is_that_of_the_raw_pixels_and_the_raw_scores(network, samples):
    """Not of the normalised input, and not of a softmax, which would hide what speaks for the other classes."""
    steps = Preprocessing(input_range=(0.0, 255.0), mean=(10.0, 20.0, 30.0), std=(50.0, 60.0, 70.0))
    cpu = torch.device("cpu")
    model = try_out(load_module(network, cpu), steps, samples.images, cpu, 128)
    maps = saliency(model.exact, samples.images, samples.labels)
    leaf = samples.images.clone().requires_grad_()
    scores = network(steps.inputs(leaf)).gather(1, samples.labels.unsqueeze(1)).sum()
    (gradient,) = torch.autograd.grad(scores, leaf)
    assert torch.equal(maps, gradient.abs().amax(1))


def test_the_check_keeps_the_contract(network, samples):
    assert_contract(Saliency)
    assert_contract(Saliency(top=0.3, gallery=2), network=network, samples=samples)


def test_concentration_is_the_share_of_the_most_salient_pixels(network, samples):
    findings = run_check(Saliency(top=0.25), toy_model(network, samples.images), samples).columns
    predicted = network(samples.images).argmax(1)
    maps = saliency(toy_model(network, samples.images).exact, samples.images, predicted).double().flatten(1)
    wanted = maps.sort(1, descending=True).values[:, :16].sum(1) / maps.sum(1)
    np.testing.assert_allclose(findings["concentration"], wanted.numpy(), rtol=1e-12)
    assert (findings["concentration"] > 0.25).all()
    assert findings["responds"].all()


class Deaf(nn.Module):
    """Answers by the first image's brightness only where it is bright; elsewhere nothing moves it."""

    def forward(self, images):
        bright = torch.relu(images.flatten(1).mean(1) - 0.5)
        return torch.stack([bright, torch.full_like(bright, 1e-3)], 1)


def test_an_image_that_nothing_moves_does_not_respond_and_does_not_count():
    samples = toy_samples(20, seed=0, wrong_every=50)
    samples.images[:5] *= 0.5
    model = toy_model(Deaf(), samples.images)
    findings = run_check(Saliency(), model, samples).columns
    assert not findings["responds"][:5].any()
    assert np.isnan(findings["concentration"][:5]).all()


def test_the_gallery_shows_confident_mistakes_first(network, samples):
    exhibits = run_check(Saliency(gallery=6), toy_model(network, samples.images), samples).exhibits
    wrong = {samples.ids[7], samples.ids[15]}
    assert {exhibit.sample for exhibit in exhibits[:2]} == wrong
    assert [exhibit.score for exhibit in exhibits] == sorted((e.score for e in exhibits), reverse=True)
    assert len(exhibits) == 6
    assert all([panel.kind for panel in exhibit.panels] == ["image", "overlay"] for exhibit in exhibits)
    assert run_check(Saliency(gallery=0), toy_model(network, samples.images), samples).exhibits == ()
