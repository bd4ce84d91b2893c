"""Sanity flags: each is raised by a model that is broken in its way, and none by a healthy one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from broken_networks import (
    KWTA,
    Binarised,
    Detached,
    NaNGradient,
    Rounded,
    Saturated,
    StraightThrough,
    base_network,
    with_activation,
)

from auditkit import Samples
from auditkit.config import settings_from
from auditkit.demo import IMAGES
from auditkit.demo.network import sign_net
from auditkit.findings import flags, metrics
from auditkit.preparing import set_up
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins.gradient_sanity import GradientSanity

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
CHECK = GradientSanity(eps=(2 / 255,), draws=5, steps=5)
QUICK = GradientSanity(eps=(2 / 255,), draws=2, steps=2)


def flags_of(check, model, samples):
    findings = run_check(check, model, samples)
    estimates, _ = metrics(check.spec, findings.columns)
    return {flag.id for flag in flags(check.spec, "sanity.gradients", estimates)}, findings


def raised(network, samples=None, check=CHECK):
    samples = samples if samples is not None else toy_samples(24, seed=6, network=network)
    return flags_of(check, toy_model(network, samples.images[:8]), samples)


@pytest.fixture(scope="module")
def signs():
    with np.load(IMAGES) as demo:
        images = torch.from_numpy(demo["x"][:16]).permute(0, 3, 1, 2).contiguous() / 255
        labels = torch.from_numpy(demo["y"][:16]).long()
    return Samples(images, labels, tuple(f"sign-{row}" for row in range(16)))


@pytest.mark.parametrize("network", [LinearModel(classes=4, seed=2), LinearModel(classes=2, seed=1), base_network()])
def test_a_healthy_model_raises_no_flag(network):
    assert raised(network)[0] == set()


def test_the_network_of_the_demo_raises_no_flag(signs):
    found, findings = raised(sign_net(), signs, QUICK)
    assert found == set()
    assert not findings.columns["shattered"].any()


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"NO REAL MODELS: {CIFAR} is absent")
@pytest.mark.parametrize("name", ["resnet20.onnx", "resnet20_int8.onnx"])
def test_a_resnet_raises_no_flag_also_when_its_gradients_are_straight_through(name):
    settings = settings_from({"limit": 16, "batch": 32, "device": "cpu", "precision": "float32"})
    bench = set_up(Recipe(str(CIFAR / name), str(CIFAR / "images_600.npz"), settings))
    found, findings = flags_of(QUICK, bench.model, bench.read(0, 16).samples)
    assert found == set()
    assert findings.columns["shattered"].mean() < 0.2


def test_a_model_that_rounds_its_input_has_zero_gradients():
    found, findings = raised(Rounded())
    assert "sanity.zero_gradients" in found
    assert findings.columns["zero_gradient"].all()
    assert "sanity.saturated" not in found
    assert "sanity.shattered" not in found, "a gradient that is zero points nowhere"


def test_a_model_with_binary_activations_has_zero_gradients(signs):
    network = with_activation(sign_net(), Binarised)
    found, findings = raised(network, signs, QUICK)
    assert "sanity.zero_gradients" in found
    assert findings.columns["zero_gradient"].all()


def test_where_gradients_are_hidden_noise_beats_them():
    assert "sanity.masking" in raised(Rounded(), toy_samples(24, seed=6, network=Rounded(), wrong_every=99))[0]


def test_a_model_with_huge_scores_is_saturated():
    found, findings = raised(Saturated())
    assert found == {"sanity.saturated"}
    correct = [row for row in range(24) if (row + 1) % 8]
    assert findings.columns["saturated"][correct].mean() > 0.9


def test_a_gradient_that_is_not_a_number_is_found():
    """Where the first images show it already, the model is refused as a source of gradients."""
    samples = toy_samples(24, seed=6, network=LinearModel(classes=4, seed=2))
    samples.images[8:, 0, 0, 0] = 0.0
    found, findings = raised(NaNGradient(), samples)
    assert "sanity.broken_gradients" in found
    assert findings.columns["broken_gradient"].tolist() == [False] * 8 + [True] * 16
    assert findings.columns["has_slopes"].tolist() == [True] * 8 + [False] * 16
    assert toy_model(NaNGradient(), samples.images[8:]).exact is None


def test_a_model_outside_torchs_graph_is_no_source_of_gradients():
    assert toy_model(Detached(), toy_samples(8).images).exact is None


@pytest.mark.parametrize("levels", [2.0, 8.0])
def test_a_gradient_that_stands_in_for_rounding_is_shattered(signs, levels):
    found, findings = raised(StraightThrough(sign_net(), levels), signs, QUICK)
    assert "sanity.shattered" in found
    assert findings.columns["shattered"].mean() > 0.7


def test_gradients_through_winners_that_take_all_are_shattered(signs):
    network = with_activation(sign_net(), KWTA)
    with torch.no_grad():
        labels = network(signs.images).argmax(1)
    found, findings = raised(network, Samples(signs.images, labels, signs.ids), QUICK)
    assert "sanity.shattered" in found
    assert findings.columns["shattered"].mean() > 0.7


class Flat(torch.nn.Module):
    """Its scores have a gradient where they never change: what a straight-through estimator does at its worst."""

    def forward(self, images):
        brightness = images.flatten(1).mean(1)
        stand_in = brightness - brightness.detach()
        return torch.stack([stand_in + 1, torch.zeros_like(stand_in)], 1)


def test_a_gradient_of_scores_that_never_change_is_shattered():
    found, findings = raised(Flat(), toy_samples(12))
    assert "sanity.shattered" in found
    assert (findings.columns["slope_cosine"] == 0).all()


def test_on_a_linear_model_slopes_are_what_the_gradient_says():
    findings = raised(LinearModel(classes=4, seed=2))[1]
    # The margin is linear as long as the runner-up stays the same.
    assert np.median(findings.columns["slope_cosine"]) > 0.9999
    assert findings.columns["slope_cosine"].min() > 0.9


def test_slopes_are_measured_inside_the_range_of_images():
    network = LinearModel(classes=4, seed=2)
    seen = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    samples = toy_samples(6, network=network)
    samples.images[:] = samples.images.round()
    found, findings = raised(network, samples)
    assert all(float(images.min()) >= 0 and float(images.max()) <= 1 for images in seen)
    assert "sanity.shattered" not in found
    assert np.median(findings.columns["slope_cosine"]) > 0.9999


def test_the_account_holds_every_pass():
    check = GradientSanity(eps=(1e-6,), draws=3, steps=2, directions=5)
    samples = toy_samples(8, network=LinearModel())
    findings = run_check(check, toy_model(LinearModel(), samples.images), samples)
    wrong = ~np.array([(row + 1) % 8 != 0 for row in range(8)])
    # Two gradients, both ends of five slopes; a clean answer for noise and attack each.
    assert findings.forwards[wrong].tolist() == [2 + 10 + 2]
    assert findings.backwards[wrong].tolist() == [2]


def test_the_check_keeps_the_contract():
    assert_contract(GradientSanity, options={"draws": 3, "steps": 3, "directions": 3, "eps": "2/255, 4/255"})
    assert_contract(GradientSanity(eps=(2 / 255,), draws=2, steps=2, directions=2), network=base_network())
