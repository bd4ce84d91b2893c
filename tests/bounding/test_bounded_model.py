"""A bounded model is asked like any other; without bounds it is the model; gradients may pass its bounds by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rectified_networks import NETWORKS, Branching, Gelu, Shared, rectified
from torch import nn

from auditkit.bounding import (
    NothingToBound,
    StraightThrough,
    activation_quantiles,
    bounded_copy,
    bounded_differentiable,
    bounded_model,
    find_sites,
    straight_through,
)
from auditkit.config import settings_from
from auditkit.errors import ExecutionError, UsageError
from auditkit.preparing import set_up
from auditkit.testing import toy_model, toy_samples
from auditkit.workbench import Recipe

IMAGES = toy_samples(40, seed=3).images
CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"


def top_score(logits):
    return logits.amax(1)


def free(model):
    return [torch.inf] * len(find_sites(model.exact.network, IMAGES))


def tight(model, quantile=0.5):
    return activation_quantiles(model.exact.network, [IMAGES], [quantile]).bounds(quantile)


class OneLayer(nn.Module):
    """Rectified once: without its bound the gradient is W2 diag(W1 x > 0) W1, whatever the bound did forward."""

    def __init__(self, branches):
        super().__init__()
        self.first, self.second = nn.Linear(192, 6), nn.Linear(6, 5)
        self.branches = branches

    def forward(self, images):
        hidden = self.first(images.flatten(1) - 0.5)
        if self.branches and hidden.abs().amax() < 0:
            hidden = -hidden
        return self.second(hidden.relu())


@pytest.mark.parametrize("kind", NETWORKS)
def test_with_infinite_bounds_scores_and_gradients_are_the_bits_of_the_model(kind):
    model = toy_model(rectified(kind), IMAGES)
    bounded = bounded_model(model, IMAGES[:8], free(model))
    wanted, slope = model.exact.gradient(IMAGES, top_score)
    for rows in (1, 5, 40):
        assert torch.equal(bounded.logits(IMAGES[:rows]), model.exact.logits(IMAGES[:rows]))
    for backward in ("bounded", "unbounded"):
        copied = bounded_differentiable(model.exact, IMAGES[:8], free(model), backward=backward)
        assert torch.equal(copied.gradient(IMAGES, top_score)[0], wanted)
        assert torch.equal(copied.gradient(IMAGES, top_score)[1], slope)


@pytest.mark.parametrize("kind", NETWORKS)
def test_with_bounds_its_scores_are_those_of_the_bounded_copy_in_any_batch(kind):
    network = rectified(kind)
    model = toy_model(network, IMAGES)
    bounded = bounded_model(model, IMAGES[:8], tight(model), "clip")
    copied = bounded_copy(network, IMAGES[:8], tight(model), "clip").network
    with torch.no_grad():
        torch.testing.assert_close(bounded.logits(IMAGES), copied(IMAGES))
    assert not torch.equal(bounded.logits(IMAGES), model.logits(IMAGES))
    alone = torch.cat([bounded.logits(image.unsqueeze(0)) for image in IMAGES])
    assert torch.equal(alone, bounded.logits(IMAGES))
    assert torch.equal(bounded.in_batches_of(3).logits(IMAGES), bounded.logits(IMAGES))


@pytest.mark.parametrize("overflow", ["fold", "leak", "clip"])
@pytest.mark.parametrize("branches", [False, True], ids=["graph", "calls"])
def test_the_gradient_that_passes_the_bounds_by_is_the_closed_form_of_no_bounds(overflow, branches):
    network = OneLayer(branches)
    model = toy_model(network, IMAGES)
    bounds = [torch.tensor(0.05)]
    through = bounded_differentiable(model.exact, IMAGES[:8], bounds, overflow, "unbounded")
    bounded = bounded_differentiable(model.exact, IMAGES[:8], bounds, overflow)
    logits, slope = through.gradient(IMAGES, lambda scores: scores[:, 2])
    open_ = (network.first(IMAGES.flatten(1) - 0.5) > 0).float()
    wanted = (open_ * network.second.weight[2]) @ network.first.weight
    torch.testing.assert_close(slope.flatten(1), wanted.detach())
    assert torch.equal(logits, bounded.logits(IMAGES))
    assert not torch.equal(logits, model.exact.logits(IMAGES))
    assert not torch.allclose(bounded.gradient(IMAGES, lambda scores: scores[:, 2])[1], slope)


@pytest.mark.parametrize("kind", [Shared, Branching])
def test_every_bound_is_passed_by_and_the_bounded_network_keeps_its_own(kind):
    network = rectified(kind)
    bounds = activation_quantiles(network, [IMAGES], [0.5]).bounds(0.5)
    bounded = bounded_copy(network, IMAGES, [None, *bounds[1:]])
    through = straight_through(bounded)
    count = sum(isinstance(module, StraightThrough) for module in through.modules())
    assert count == len(bounds) - 1 == sum(module is not None for module in bounded.modules())
    assert not any(isinstance(module, StraightThrough) for module in bounded.network.modules())


def test_the_model_itself_is_as_it_was():
    network = rectified(Shared)
    model = toy_model(network, IMAGES)
    before = {name: tensor.clone() for name, tensor in model.exact.network.state_dict().items()}
    wanted = model.exact.logits(IMAGES)
    bounded_model(model, IMAGES[:8], tight(model))
    bounded_differentiable(model.exact, IMAGES[:8], tight(model), backward="unbounded")
    assert model.exact.network.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.exact.network.state_dict().items())
    assert torch.equal(model.exact.logits(IMAGES), wanted)


def test_what_cannot_be_bounded_is_refused_in_one_line():
    model = toy_model(rectified(Gelu), IMAGES)
    with pytest.raises(NothingToBound, match="nothing to bound"):
        bounded_model(model, IMAGES[:8], [1.0])
    model = toy_model(rectified(Shared), IMAGES)
    with pytest.raises(UsageError, match="wanted 3 bounds, one a site; got 2"):
        bounded_model(model, IMAGES[:8], [1.0, 1.0])
    with pytest.raises(ExecutionError, match=r"differentiable network \(it is a toy\)"):
        bounded_model(replace(model, exact=None, no_gradients="it is a toy"), IMAGES[:8], [1.0])


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"no {CIFAR}")
@pytest.mark.parametrize("name", ["resnet20.onnx", "resnet20.pt"])
def test_real_networks_without_bounds_are_the_bits_of_their_exact_copy_and_bounds_change_them(name):
    settings = settings_from({"limit": 8, "batch": 8, "device": "cpu", "precision": "float32"})
    bench = set_up(Recipe(str(CIFAR / name), str(CIFAR / "images_600.npz"), settings))
    images, model = bench.read(0, 8).samples.images, bench.model
    bounded = bounded_model(model, images[:8], [torch.inf] * 19)
    assert torch.equal(bounded.logits(images), model.exact.logits(images))
    search = bounded_differentiable(bench.search, images[:8], [torch.inf] * 19)
    assert torch.equal(search.logits(images), bench.search.logits(images))
    assert not torch.equal(bounded_model(model, images[:8], [0.5] * 19).logits(images), model.exact.logits(images))
