"""Locality: scores from layers computed near the window are those of the whole covered image."""

from __future__ import annotations

import operator
from dataclasses import replace

import pytest
import torch
from torch import fx, nn
from torch.nn import functional

from auditkit.covers import CoverSweep, Windows, cover_sweep, filling
from auditkit.covers.locality import find_locality
from auditkit.covers.nodes import keeps_to_itself
from auditkit.models.prepare import folded_copy, quick_copy
from auditkit.testing import toy_model, toy_samples


class Block(nn.Module):
    """A residual block: in-place units, a shortcut that may be strided, and an addition."""

    def __init__(self, given, made, stride):
        super().__init__()
        self.one = nn.Conv2d(given, made, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(made)
        self.two = nn.Conv2d(made, made, 3, 1, 1)
        self.short = nn.Conv2d(given, made, 1, stride) if stride > 1 or given != made else nn.Identity()
        self.unit = nn.ReLU(inplace=True)

    def forward(self, maps):
        inner = self.two(self.unit(self.norm(self.one(maps))))
        inner += self.short(maps)
        return self.unit(inner)


class Normalised(nn.Module):
    """Normalises with buffers, as networks do that bring their own preprocessing."""

    def __init__(self, body, channels=3):
        super().__init__()
        self.register_buffer("mean", torch.full((1, channels, 1, 1), 0.4))
        self.body = body

    def forward(self, images):
        return self.body((images - self.mean) / 0.25)


class Branches(nn.Module):
    """Branches with different reaches, joined."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 6, (5, 3), padding=(2, 1))
        self.far = nn.Conv2d(3, 6, 3, padding=2, dilation=2)
        self.split = nn.Conv2d(6, 6, 3, padding=1, groups=3)

    def forward(self, images):
        return self.split(functional.gelu(self.wide(images)) * torch.sigmoid(self.far(images)))


def head(channels, classes=5):
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, classes))


NETWORKS = {
    "plain": lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), head(8)),
    "pooled": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.MaxPool2d(3, 2, 1),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(inplace=True),
        head(8),
    ),
    "residual": lambda: Normalised(nn.Sequential(Block(3, 8, 1), Block(8, 8, 1), Block(8, 12, 2), head(12))),
    "strided": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 1, 2),
        nn.SiLU(),
        nn.MaxPool2d(2),
        head(8),
    ),
    "branches": lambda: nn.Sequential(Branches(), nn.Hardswish(), head(6)),
    "skipping": lambda: nn.Sequential(nn.Conv2d(3, 8, 2, 5), nn.ReLU(), nn.Conv2d(8, 8, 2, 2, 1), nn.ReLU(), head(8)),
}


def quickened(network, samples):
    model = toy_model(network, samples.images)
    quick = quick_copy(model, folded_copy(model, samples.images), samples.images)
    assert quick is not None
    return replace(model, quick=quick)


def spread(network):
    """Give a network weights that let scores depend on everything."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("size", [(32, 32), (24, 41)])
@pytest.mark.parametrize("fill", ["mean", "blur"])
def test_scores_near_a_window_are_those_of_the_whole_image(network, size, fill):
    network = spread(NETWORKS[network]())
    samples = toy_samples(5, shape=(3, *size), network=network)
    model = quickened(network, samples)
    windows = Windows.covering(*size, 4, 5, 4)
    local = find_locality(model.quick, windows)
    assert local is not None
    wanted = cover_sweep(model.quick_logits, samples.images, windows, filling(fill, windows), 32)
    got = CoverSweep(windows, fill)(model, samples)
    assert (wanted - model.logits(samples.images)[:, None]).abs().amax() > 1e-3
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-6 * float(wanted.abs().max()))


def test_grey_images_and_single_pixels_of_a_map_work_too():
    network = spread(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3), nn.ReLU(), head(1, 3)))
    samples = toy_samples(3, shape=(1, 20, 24), network=network)
    model = quickened(network, samples)
    windows = Windows.grid(20, 24, (1, 1), (1, 1))
    assert find_locality(model.quick, windows) is not None
    wanted = cover_sweep(model.quick_logits, samples.images, windows, filling("grey", windows), 64)
    torch.testing.assert_close(CoverSweep(windows, "grey")(model, samples), wanted, rtol=0, atol=1e-6)


def test_few_places_of_the_first_layers_are_computed():
    network = spread(NETWORKS["residual"]())
    samples = toy_samples(2, shape=(3, 32, 32), network=network)
    model = quickened(network, samples)
    local = find_locality(model.quick, Windows.grid(32, 32, (4, 4), (4, 4)))
    assert len(local.layers) == 8
    assert max(boxes.share for boxes in local.boxes.values()) <= 0.5
    assert not {node.name for node in local.layers} & {node.name for node in local.rest.graph.nodes}


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), head(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), head(4)),
        nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 4, 3), head(4)),
    ],
    ids=["dense", "circular", "same", "averaged"],
)
def test_a_network_whose_first_layer_is_not_known_is_computed_as_a_whole(network):
    network = spread(network)
    samples = toy_samples(2, shape=(3, 16, 16), network=network)
    model = quickened(network, samples)
    windows = Windows.grid(16, 16, (4, 4), (4, 4))
    assert find_locality(model.quick, windows) is None
    wanted = cover_sweep(model.quick_logits, samples.images, windows, filling("mean", windows), 32)
    assert torch.equal(CoverSweep(windows)(model, samples), wanted)


def test_a_large_window_or_a_model_without_a_quick_copy_needs_no_locality():
    network = spread(NETWORKS["plain"]())
    samples = toy_samples(2, shape=(3, 16, 16), network=network)
    model = quickened(network, samples)
    assert find_locality(model.quick, Windows.grid(16, 16, (13, 13), (2, 2))) is None
    assert find_locality(None, Windows.grid(16, 16, (4, 4), (2, 2))) is None


class Reused(nn.Module):
    """Reads a tensor again after it was changed in place."""

    def __init__(self):
        super().__init__()
        self.one, self.unit, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)
        self.head = head(4)

    def forward(self, images):
        maps = self.one(images)
        return self.head(self.unit(maps) + self.two(maps))


def test_a_network_that_reads_what_it_changed_in_place_is_computed_as_a_whole():
    network = spread(Reused())
    samples = toy_samples(2, shape=(3, 16, 16), network=network)
    model = quickened(network, samples)
    assert find_locality(model.quick, Windows.grid(16, 16, (4, 4), (4, 4))) is None


@pytest.mark.parametrize(
    ("changed", "harmless"),
    [
        (lambda maps: torch.relu(maps), True),
        (lambda maps: functional.relu(maps, inplace=True), False),
        (lambda maps: maps.clamp_(0, 1), False),
        (lambda maps: torch.add(maps, 1, out=maps), False),
        (lambda maps: functional.relu(maps + 1, inplace=True), True),
        (lambda maps: (maps + 1).mul_(2), True),
    ],
)
def test_changes_in_place_are_seen_for_what_they_are(changed, harmless):
    class Changes(nn.Module):
        def forward(self, maps):
            return changed(maps)

    graph = fx.symbolic_trace(Changes()).graph
    assert all(keeps_to_itself(node, {}) for node in graph.nodes) == harmless


def test_an_addition_in_place_is_seen_in_a_graph_that_has_one():
    graph = fx.Graph()
    maps = graph.placeholder("maps")
    added = graph.call_function(operator.iadd, (maps, 1))
    graph.output(added)
    assert keeps_to_itself(maps, {})
    assert not keeps_to_itself(added, {})


def test_a_hook_on_a_layer_is_not_passed_over():
    """What a hook makes of a layer's output is not known, so the layer is left to the network."""
    network = spread(NETWORKS["plain"]())
    samples = toy_samples(2, shape=(3, 16, 16), network=network)
    model = quickened(network, samples)
    convolution = next(module for module in model.quick.network.modules() if isinstance(module, nn.Conv2d))
    convolution.register_forward_hook(lambda module, given, made: made * 2)
    windows = Windows.grid(16, 16, (4, 4), (4, 4))
    assert find_locality(model.quick, windows) is None


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_a_sample_gets_the_same_bits_in_any_company(batch):
    network = spread(NETWORKS["residual"]())
    samples = toy_samples(18, shape=(3, 24, 24), network=network)
    model = quickened(network, samples)
    sweep = CoverSweep(Windows.covering(24, 24, 4, 4, 2))
    wanted = sweep(model, samples)
    alone = replace(model, batch=batch, quick=replace(model.quick, batch=batch))
    assert torch.equal(sweep(alone, samples), wanted)
    assert torch.equal(sweep(model, samples.take(range(17, -1, -1))).flip(0), wanted)
    assert torch.equal(sweep(model, samples.take([4])), wanted[4:5])


def test_the_quick_copy_is_left_as_it_was():
    network = spread(NETWORKS["residual"]())
    samples = toy_samples(3, shape=(3, 24, 24), network=network)
    model = quickened(network, samples)
    before = {name: value.clone() for name, value in model.quick.network.state_dict().items()}
    images = samples.images.clone()
    first = CoverSweep(Windows.covering(24, 24, 4, 4, 4))(model, samples)
    assert torch.equal(CoverSweep(Windows.covering(24, 24, 4, 4, 4))(model, samples), first)
    assert torch.equal(samples.images, images)
    assert all(torch.equal(value, before[name]) for name, value in model.quick.network.state_dict().items())
