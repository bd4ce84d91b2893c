"""TorchScript, exported programs and twins are bounded like the network that they were made of."""

from __future__ import annotations

import warnings

import pytest
import torch
from rectified_networks import Branching, Functional, InPlace, Perceptron, Relatives, Shared, filled, rectified
from torch import nn
from torch.nn import functional

from auditkit.bounding import bounded_copy, find_sites
from auditkit.bounding.script import graph_of_script
from auditkit.errors import ExecutionError

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(4))


class Sized(nn.Module):
    """Its script asks for numbers of dimensions, loops over them, and fails for odd sizes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])

    def forward(self, images):
        if images.dim() != 4:
            raise ValueError("images have four dimensions")
        features = functional.interpolate(self.layer(images).relu(), scale_factor=2.0)
        features = functional.adaptive_avg_pool2d(features, 1).flatten(1)
        for block in self.blocks:
            features = block(features).relu()
        parts = torch.split(features, 2, dim=1)
        return torch.cat([parts[1], parts[0]], dim=1)


def scores(network, images=IMAGES):
    with torch.no_grad():
        return network(images)


def scripted(network):
    return torch.jit.script(network)


def traced(network):
    return torch.jit.trace(network, IMAGES)


def frozen(network):
    return torch.jit.freeze(torch.jit.script(network), optimize_numerics=False)


@pytest.mark.parametrize("make", [scripted, traced, frozen])
@pytest.mark.parametrize("kind", [Shared, Functional, InPlace, Relatives, Perceptron, Sized])
def test_a_script_is_bounded_like_its_network(kind, make):
    network = filled(kind())
    script = make(network)
    state = {name: tensor.clone() for name, tensor in script.state_dict().items()}
    sites = find_sites(network, IMAGES)
    bounds = [0.1 + 0.1 * place for place in range(len(sites))]
    bounded, wanted = bounded_copy(script, IMAGES, bounds), bounded_copy(network, IMAGES, bounds)
    assert bounded.method == "script graph"
    assert [site.shape for site in bounded.sites] == [site.shape for site in sites]
    for images in (IMAGES, IMAGES[:2]):
        torch.testing.assert_close(scores(bounded.network, images), scores(wanted.network, images))
        assert not torch.equal(scores(bounded.network, images), scores(network, images))
        assert torch.equal(
            scores(bounded_copy(script, IMAGES, [None] * len(sites)).network, images), scores(script, images)
        )
    assert all(torch.equal(tensor, state[name]) for name, tensor in script.state_dict().items())


def test_sites_of_a_script_are_named_after_the_modules_around_them():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
            self.body = nn.Sequential(rectified(Shared).second, nn.ReLU())
            self.head = nn.Linear(4, 5)

        def forward(self, images):
            return self.head(self.body(self.stem(images)).mean((2, 3)))

    sites = find_sites(torch.jit.script(filled(Nested())), IMAGES)
    assert [site.name for site in sites] == ["stem.relu", "body.relu"]


def test_weights_of_a_script_keep_their_names_and_can_learn():
    script = torch.jit.script(rectified(Shared))
    graph = graph_of_script(script, IMAGES)
    wanted = dict(script.named_parameters())
    got = dict(graph.named_parameters())
    assert got.keys() == wanted.keys()
    for name, parameter in got.items():
        assert torch.equal(parameter, wanted[name])
        assert parameter.data_ptr() != wanted[name].data_ptr()


def test_a_script_that_branches_on_its_image_is_refused():
    with pytest.raises(ExecutionError, match="branches on the values of the image"):
        find_sites(torch.jit.script(rectified(Branching)), IMAGES)


@pytest.mark.parametrize("kind", [Shared, InPlace, Relatives])
def test_an_exported_program_is_bounded_like_its_network(kind):
    network = rectified(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(network, (IMAGES,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()
        bounds = [0.1 + 0.1 * place for place in range(len(find_sites(network, IMAGES)))]
        bounded = bounded_copy(program, IMAGES, bounds)
    assert bounded.method == "graph"
    wanted = bounded_copy(network, IMAGES, bounds)
    assert [site.name for site in bounded.sites] == [site.name for site in wanted.sites]
    torch.testing.assert_close(scores(bounded.network), scores(wanted.network))
    torch.testing.assert_close(scores(bounded.network, IMAGES[:2]), scores(wanted.network, IMAGES[:2]))
