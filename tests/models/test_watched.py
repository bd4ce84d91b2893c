"""The copy that activations are taken from: those of the network itself but for rounding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from auditkit.models.prepare import folded_copy, quick_copy, watched_copy
from auditkit.models.taps import tap_activations
from auditkit.testing import toy_model


class Normalised(nn.Module):
    """Convolutions with batch norm, whose statistics are not those of a fresh layer, and shared activations."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.norm = nn.BatchNorm2d(8)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)
        self.relu = nn.ReLU()
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        values = self.relu(self.second(self.relu(self.norm(self.first(images)))))
        return self.head(nn.functional.gelu(values.mean((2, 3))))


@pytest.fixture
def images():
    return torch.rand(9, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model(images):
    torch.manual_seed(0)
    return toy_model(Normalised().eval(), images)


def activations(network, model, images):
    seen = [[] for _ in model.sites]
    tap_activations(network, model.sites, images, lambda site, values, rows: seen[site].append(values[:rows].clone()))
    return [torch.cat(parts) for parts in seen]


def prepared(model, images):
    folded = folded_copy(model, images)
    return watched_copy(replace(model, quick=quick_copy(model, folded, images)), folded, images)


def test_the_folded_copy_has_the_activations_of_the_network(model, images):
    watched = prepared(model, images)
    assert watched is not model.exact
    assert "folded" in watched.description
    pairs = list(zip(activations(watched, model, images), activations(model.exact, model, images), strict=True))
    assert len(pairs) == 3
    for got, wanted in pairs:
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 4, 9])
def test_an_images_activations_do_not_depend_on_its_batch(model, images, batch):
    watched = prepared(model, images)
    for got, wanted in zip(
        activations(replace(watched, batch=batch), model, images), activations(watched, model, images), strict=True
    ):
        assert torch.equal(got, wanted)


def test_a_copy_with_other_activations_is_not_taken(model, images):
    """Scores may agree where what is inside does not: twice the values, half the weights behind them."""
    network = Normalised().eval()
    network.load_state_dict(model.exact.network.network.state_dict())
    with torch.no_grad():
        network.norm.weight.mul_(2)
        network.norm.bias.mul_(2)
        network.second.weight.div_(2)
    other = toy_model(network, images).exact
    torch.testing.assert_close(other.logits(images), model.exact.logits(images), rtol=1e-5, atol=1e-6)
    assert watched_copy(model, other, images) is model.exact


def test_a_copy_that_calls_other_functions_is_not_taken(model, images):
    network = Normalised().eval()
    network.relu = nn.SiLU()
    assert watched_copy(model, toy_model(network, images).exact, images) is model.exact


def test_without_a_folded_copy_it_is_the_network_itself(model, images):
    assert watched_copy(model, None, images) is model.exact
