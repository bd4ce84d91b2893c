"""sigma-zero for pixels: as few pixels as a formula allows, its gradient of their number, and its exchanges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit_plugins import sparse_gradient
from auditkit_plugins.sparse_gradient import SparseGradient


class Leaning(LinearModel):
    """A linear model that leans toward class 0, so that it takes several pixels to turn it."""

    def __init__(self, shape=(3, 6, 7), seed=0, lead=12.0):
        super().__init__(2, shape, seed)
        self.bias.data += torch.tensor([lead, 0.0])


def fewest_pixels(network, samples):
    """Return int64 (N,): how many pixels it takes, each set to its best corner colour, the most telling first."""
    weight, bias = network.weight.detach().double(), network.bias.detach().double()
    images, labels = samples.images.double(), samples.labels
    pull = (weight[1 - labels] - weight[labels]).view_as(images)
    lead = (bias[labels] - bias[1 - labels]) - (pull * images).flatten(1).sum(1)
    gain = torch.maximum(pull * (1 - images), -pull * images).sum(1).flatten(1)
    reached = gain.sort(dim=1, descending=True).values.cumsum(1)
    return (reached <= lead.unsqueeze(1)).sum(1) + 1


def subject(n=60, seed=4, shape=(3, 6, 7)):
    network = Leaning(shape, seed)
    samples = toy_samples(n, seed=2, shape=shape, network=network, wrong_every=1000)
    return network, samples, toy_model(network, samples.images)


def test_on_a_linear_model_it_needs_no_more_pixels_than_a_formula_says():
    network, samples, model = subject()
    least = fewest_pixels(network, samples).numpy()
    found = run_check(SparseGradient(eps=(100,), steps=60), model, samples, batch=64).columns["distance"]
    assert len(set(least.tolist())) >= 4
    assert (found >= least).all(), "fewer than possible are not pixels counted rightly"
    assert (found == least).mean() >= 0.9
    assert (found <= least + 1).mean() >= 0.98


def test_the_gradient_of_the_number_of_pixels_is_the_derivative_of_its_formula():
    change = 0.1 * torch.randn(4, 3, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    change[:, :, 2] = 0
    change.requires_grad_(True)
    square = change.square().sum(1)
    (square / (square + 1e-3)).mean((1, 2)).sum().backward()
    torch.testing.assert_close(sparse_gradient._slope_of_count(change.detach()), change.grad)


def test_a_success_leads_on_to_fewer_pixels_and_a_pixel_changes_with_all_its_channels():
    """Channel by channel the same budget would hide three times as many changes."""
    _, samples, model = subject(n=20)
    found = run_check(SparseGradient(eps=(100,), steps=60), model, samples)
    changed = np.abs(found.attacked / 65535 - samples.images.numpy()) > 1e-4
    np.testing.assert_array_equal(changed.any(1).sum((1, 2)), found.columns["distance"])


def test_a_row_that_needs_one_pixel_only_is_left_at_once():
    network = LinearModel(classes=2, seed=1)
    samples = toy_samples(12, seed=2, network=network, wrong_every=1000)
    model = toy_model(network, samples.images)
    found = run_check(SparseGradient(steps=200), model, samples)
    single = found.columns["distance"] == 1
    assert single.sum() > 8
    assert (found.backwards[single] < 100).all()


def test_a_model_that_nothing_moves_stays_robust():
    class Constant(nn.Module):
        def forward(self, images):
            return torch.tensor([2.0, 1.0]).expand(len(images), 2) + 0 * images.flatten(1)[:, :1]

    samples = toy_samples(6)
    found = run_check(SparseGradient(steps=12), toy_model(Constant(), samples.images), samples)
    assert found.columns["robust"].all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 3), (3, 8, 4)])
@pytest.mark.parametrize("steps", [1, 2, 15])
def test_it_takes_images_of_any_shape_and_few_steps(shape, steps):
    network = LinearModel(classes=2, shape=shape, seed=1)
    samples = toy_samples(9, shape=shape, network=network, wrong_every=4)
    assert_contract(SparseGradient(eps=(1, 3), steps=steps), network=network, samples=samples)


@pytest.mark.parametrize("eps", [(0.5,), (1.5, 3.0), (0.0, 1.0)])
def test_parts_of_a_pixel_are_refused(eps):
    with pytest.raises(ValueError, match="whole numbers of pixels"):
        SparseGradient(eps=eps)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 100), shape=st.sampled_from([(1, 4, 4), (3, 4, 8)]), steps=st.integers(1, 25))
def test_a_sample_gets_the_same_result_in_any_batch(seed, shape, steps):
    network = Leaning(shape, seed=seed, lead=4.0)
    samples = toy_samples(10, seed=seed, shape=shape, network=network)
    model = toy_model(network, samples.images)
    check = SparseGradient(eps=(1, 3), steps=steps)
    wanted, *others = (run_check(check, model, samples, batch=batch) for batch in (64, 1, 7))
    for other in others:
        np.testing.assert_array_equal(other.forwards, wanted.forwards)
        np.testing.assert_array_equal(other.backwards, wanted.backwards)
        for name, column in wanted.columns.items():
            np.testing.assert_array_equal(other.columns[name], column)
