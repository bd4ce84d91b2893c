"""Sanity flags: each is raised by a model that is broken in its way, and none by a healthy one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from auditkit.findings import flags, metrics
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit_plugins.gradient_sanity import GradientSanity


def conv():
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 16, 4)
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return network


class Quantised(nn.Module):
    """Rounds the pixels to black and white: no gradient passes."""

    def __init__(self):
        super().__init__()
        self.body = LinearModel(classes=4, seed=2)

    def forward(self, images):
        return self.body((images - 0.5).sign())


class Saturated(nn.Module):
    """Scores ten thousand times too large: the softmax is flat in float32."""

    def __init__(self):
        super().__init__()
        self.body = LinearModel(classes=4, seed=2)

    def forward(self, images):
        return 1e4 * self.body(images)


class Random(nn.Module):
    """Drops pixels at random, in evaluation mode, too."""

    def __init__(self):
        super().__init__()
        self.body = LinearModel(classes=4, seed=2)

    def forward(self, images):
        return self.body(nn.functional.dropout(images, 0.1, training=True))


class Rooted(nn.Module):
    """The derivative of the root is infinite at zero, and zero times infinity is not a number."""

    def __init__(self):
        super().__init__()
        self.body = LinearModel(classes=4, seed=2)

    def forward(self, images):
        return self.body(images) + 0 * images[:, 0, 0, :1].square().sqrt()


def raised(network, samples=None):
    samples = samples if samples is not None else toy_samples(24, seed=6, network=network)
    model = toy_model(network, samples.images[:8])
    check = GradientSanity(eps=(2 / 255,), draws=5, steps=5)
    findings = run_check(check, model, samples)
    estimates, _ = metrics(check.spec, findings.columns)
    return {flag.id for flag in flags(check.spec, "sanity.gradients", estimates)}, findings


@pytest.mark.parametrize("network", [LinearModel(classes=4, seed=2), LinearModel(classes=2, seed=1), conv()])
def test_a_healthy_model_raises_no_flag(network):
    assert raised(network)[0] == set()


def test_a_model_that_rounds_its_input_has_zero_gradients():
    found, findings = raised(Quantised())
    assert "sanity.zero_gradients" in found
    assert findings.columns["zero_gradient"].all()
    assert "sanity.saturated" not in found


def test_where_gradients_are_hidden_noise_beats_them():
    assert "sanity.masking" in raised(Quantised(), toy_samples(24, seed=6, network=Quantised(), wrong_every=99))[0]


def test_a_model_with_huge_scores_is_saturated():
    found, findings = raised(Saturated())
    assert found == {"sanity.saturated"}
    correct = [row for row in range(24) if (row + 1) % 8]
    assert findings.columns["saturated"][correct].mean() > 0.9


def test_a_model_that_throws_dice_is_found_out():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found, findings = raised(Random())
    assert "sanity.random" in found
    assert findings.columns["random_score"].all()


def test_a_gradient_that_is_not_a_number_is_found():
    """Where the first images show it already, the model is refused as a source of gradients."""
    samples = toy_samples(24, seed=6, network=LinearModel(classes=4, seed=2))
    samples.images[8:, 0, 0, 0] = 0.0
    found, findings = raised(Rooted(), samples)
    assert "sanity.broken_gradients" in found
    assert findings.columns["broken_gradient"].tolist() == [False] * 8 + [True] * 16
    assert toy_model(Rooted(), samples.images[8:]).exact is None


def test_the_check_keeps_the_contract():
    assert_contract(GradientSanity, options={"draws": 3, "steps": 3, "eps": "2/255, 4/255"})
    assert_contract(GradientSanity(eps=(2 / 255,), draws=2, steps=2), network=conv())
