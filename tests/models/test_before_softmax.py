"""Explanations are of the scores before a softmax, in whatever format a network that ends in one comes."""

from __future__ import annotations

import pytest
import torch
from explained_networks import CPU, Rectified, Scriptable, exported, fill, loaded, program, scripted, traced
from torch import nn

from auditkit import saliency
from auditkit.models.batching import InFixedBatches
from auditkit.models.prepare import folded_copy
from auditkit.models.preprocess import Preprocessing
from auditkit.models.torch_files import load_module
from auditkit.models.tryout import try_out
from auditkit.testing import LinearModel, toy_model

SHAPE = (3, 12, 12)


@pytest.fixture(scope="module")
def images():
    return torch.rand(12, *SHAPE, generator=torch.Generator().manual_seed(0))


def sure(end, times=20):
    """A network whose softmax leaves nothing of most gradients."""
    network = fill(Rectified("torch", end=end))
    with torch.no_grad():
        network.head.weight.mul_(times)
    return network


@pytest.fixture(scope="module")
def wanted(images):
    """Scores, and their gradient for class 1, as autograd says without a softmax."""
    leaf = images.clone().requires_grad_()
    scores = sure(None)(leaf)
    (gradient,) = torch.autograd.grad(scores[:, 1].sum(), leaf)
    return scores.detach(), gradient.abs().amax(1)


def holds(model, images, wanted, tolerance=0.0):
    scores, maps = wanted
    assert model.exact is not None, model.no_gradients
    assert model.exact.before_softmax is not None
    atol = tolerance * float(scores.abs().max())
    torch.testing.assert_close(model.exact.unnormalised.logits(images), scores, rtol=tolerance, atol=atol)
    got = saliency(model.exact, images, torch.ones(len(images), dtype=torch.int64))
    torch.testing.assert_close(got, maps, rtol=tolerance, atol=tolerance * float(maps.max()))


@pytest.mark.parametrize("outputs", ["probabilities", "logits"])
@pytest.mark.parametrize("form", ["module", "script", "trace", "program"])
def test_a_torch_network_is_explained_before_its_softmax(images, wanted, form, outputs):
    network = sure("probabilities")
    forms = {
        "module": lambda: network,
        "script": lambda: scripted(Scriptable(network, softmax=True)),
        "trace": lambda: traced(network, images),
        "program": lambda: program(network, images),
    }
    holds(loaded(forms[form](), images, outputs=outputs), images, wanted)


def test_a_log_softmax_is_cut_off_too(images, wanted):
    holds(loaded(sure("log"), images), images, wanted)


@pytest.mark.parametrize("outputs", ["probabilities", "logits"])
def test_an_onnx_graph_is_explained_before_its_softmax(images, wanted, tmp_path, outputs):
    holds(exported(sure("probabilities"), images, tmp_path, outputs=outputs), images, wanted, tolerance=1e-4)


def test_an_onnx_graph_whose_probabilities_are_zero_is_explained_all_the_same(images, tmp_path):
    """Its logarithms end where those of the twin go on: no reason to distrust the twin."""
    model = exported(sure("probabilities", times=400), images, tmp_path, outputs="probabilities")
    assert (model.deployed(images) < -69).any()
    assert model.exact is not None, model.no_gradients
    torch.testing.assert_close(
        model.exact.unnormalised.logits(images), sure(None, times=400)(images), rtol=1e-4, atol=1e-1
    )


def test_the_scores_that_attacks_see_stay_those_of_the_deployed_model(images):
    model = loaded(sure("probabilities"), images, outputs="probabilities")
    torch.testing.assert_close(model.exact.logits(images), model.logits(images))
    searching = folded_copy(model, images)
    torch.testing.assert_close(searching.unnormalised.logits(images), model.logits(images), rtol=1e-3, atol=1e-3)


def test_a_network_without_a_softmax_is_explained_as_it_is(images):
    for network in (sure(None), LinearModel(shape=SHAPE), nn.Sequential(sure("probabilities"), nn.Linear(5, 3))):
        exact = toy_model(network, images).exact
        assert exact.before_softmax is None
        assert exact.unnormalised is exact


def test_a_softmax_whose_result_is_changed_is_not_cut_off(images):
    class Sharpened(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = sure("probabilities")

        def forward(self, images):
            return self.network(images) ** 2

    assert loaded(Sharpened(), images).exact.before_softmax is None


@pytest.mark.parametrize("size", [1, 4])
def test_a_network_that_is_fed_some_images_at_a_time_is_cut_in_each_part(images, wanted, size):
    network = InFixedBatches(sure("probabilities"), size)
    model = try_out(load_module(network, CPU), Preprocessing(outputs="probabilities"), images, CPU, 128)
    holds(model, images, wanted, tolerance=1e-5)
