"""A bounded copy bounds every rectifier, each call on its own, leaves everything else, and the original, alone."""

from __future__ import annotations

import math

import pytest
import torch
from rectified_networks import NETWORKS, Branching, Gelu, InPlace, Perceptron, Relatives, Shared, Tokens, rectified
from torch import nn
from torch.fx.experimental.optimization import fuse
from torch.nn import functional

from auditkit.bounding import NothingToBound, UpperBound, bounded_copy, find_sites, with_modules_at_sites
from auditkit.bounding.calls import AtCalls, sites_by_calls
from auditkit.errors import ExecutionError, UsageError
from auditkit.models.batching import InFixedBatches
from auditkit.models.loaded import digest_state
from auditkit.models.preprocess import Preprocessed, Preprocessing

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(3))
BY_CALLS = (Tokens, Branching)


def scores(network, images=IMAGES):
    with torch.no_grad():
        return network(images)


def some_bounds(network, share=0.5):
    """Return a bound a channel for each site: a share of the largest value there."""
    bounds = []
    for site, values in sites_by_calls(network, IMAGES):
        largest = values.movedim(site.channel_axis, 0).flatten(1).amax(1).clamp(min=0)
        bounds.append(share * largest)
    return bounds


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_call_of_a_rectifier_is_a_site(kind):
    sites = find_sites(rectified(kind), IMAGES)
    assert [(site.name, site.operation, site.channels) for site in sites] == NETWORKS[kind]


@pytest.mark.parametrize("overflow", ["fold", "leak", "clip"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_infinite_bounds_change_no_bit(kind, overflow, monkeypatch):
    network = rectified(kind)
    whole = bounded_copy(network, IMAGES, [math.inf] * len(NETWORKS[kind]), overflow)
    assert whole.paths == (None,) * len(NETWORKS[kind])
    # Bounds that are infinite for some channels, and never reached by the others, are really computed.
    open_bounds = [torch.full((channels,), math.inf) for _, _, channels in NETWORKS[kind]]
    for bound in open_bounds:
        bound[0] = 1e30
    mixed = bounded_copy(network, IMAGES, open_bounds, overflow)
    assert None not in mixed.paths
    for images in (IMAGES, IMAGES[:2]):
        assert torch.equal(scores(whole.network, images), scores(network, images))
        # The fast path of torch's transformer layer calls no ReLU that could be bounded, and rounds differently.
        monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)
        assert torch.equal(scores(mixed.network, images), scores(network, images))
        monkeypatch.undo()


@pytest.mark.parametrize("overflow", ["fold", "clip"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_graph_computes_what_watching_the_calls_does(kind, overflow):
    network = rectified(kind)
    bounds = some_bounds(network)
    bounded = bounded_copy(network, IMAGES, bounds, overflow, 0.1)
    assert bounded.method == ("calls" if kind in BY_CALLS else "graph")
    axes = [site.channel_axis for site in bounded.sites]
    modules = [UpperBound(bound, overflow, 0.1, channel_axis=axis) for bound, axis in zip(bounds, axes, strict=True)]
    assert torch.equal(scores(bounded.network), scores(AtCalls(network, modules)))
    assert not torch.equal(scores(bounded.network), scores(network))
    for kept, wanted in zip(bounded.bounds(), bounds, strict=True):
        assert torch.equal(kept, wanted)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_network_of_the_caller_is_left_as_it_was(kind):
    network = rectified(kind)
    network.train()
    network.requires_grad_(False)
    before, names = digest_state(network), [name for name, _ in network.named_modules()]
    bounded = bounded_copy(network, IMAGES, [1.0] * len(NETWORKS[kind]))
    assert digest_state(network) == before
    assert [name for name, _ in network.named_modules()] == names
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
    assert not any(module.training for module in bounded.network.modules())
    with torch.no_grad():
        for tensor in bounded.network.state_dict().values():
            tensor.zero_()
    assert digest_state(network) == before


def test_bounds_of_a_shared_module_differ_from_call_to_call():
    network = rectified(Shared)

    def by_hand(images):
        features = functional.relu(network.norm(network.first(images))).clamp(max=0.3)
        inner = functional.relu(network.second(features)).clamp(max=0.2)
        return network.scores(functional.relu(features + inner).clamp(max=0.4))

    bounded = bounded_copy(network, IMAGES, [0.3, 0.2, 0.4], "clip")
    assert torch.equal(scores(bounded.network), by_hand(IMAGES))


def test_what_reads_a_tensor_that_was_rectified_in_place_reads_bounded_values():
    network = rectified(InPlace)

    def by_hand(images):
        features = network.norm(network.first(images)).clamp(0, 0.3)
        for bound in (0.2, 0.4, 0.1):
            features = network.second(features).clamp(0, bound)
        return network.scores(features)

    bounds = [0.3, 0.2, 0.4, 0.1]
    watched = AtCalls(network, [UpperBound(bound, "clip") for bound in bounds])
    assert torch.equal(scores(bounded_copy(network, IMAGES, bounds, "clip").network), by_hand(IMAGES))
    assert torch.equal(scores(watched), by_hand(IMAGES))


def test_bounding_in_place_lets_gradients_pass():
    for kind in (InPlace, Branching):
        network = rectified(kind)
        watched = AtCalls(network, [UpperBound(0.5, "clip") for _ in NETWORKS[kind]])
        images = IMAGES.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(watched(images).sum(), images)
        bounded = bounded_copy(network, IMAGES, [0.5] * len(NETWORKS[kind]), "clip")
        (got,) = torch.autograd.grad(bounded.network(images).sum(), images)
        assert torch.equal(got, wanted)
        assert got.abs().sum() > 0


def test_only_the_sites_with_a_bound_change():
    network = rectified(Perceptron)
    bounded = bounded_copy(network, IMAGES, [None, 0.25], "clip")
    assert torch.equal(scores(bounded.network), scores(network).clamp(max=0.25))
    assert bounded.paths[0] is None
    assert bounded.summary() == "1 of 2 sites bounded (graph)"
    assert bounded.bounds()[0] is None
    assert float(bounded.bounds()[1]) == 0.25


def test_a_relu6_keeps_its_own_end():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU6()).eval()
    nn.init.constant_(network[1].weight, 1.0)
    bounded = bounded_copy(network, IMAGES, [100.0])
    assert float(scores(bounded.network).max()) == 6


def test_double_precision_stays():
    network = rectified(Shared).double()
    bounded = bounded_copy(network, IMAGES.double(), [0.5] * 3)
    assert scores(bounded.network, IMAGES.double()).dtype == torch.float64
    assert bounded.bounds()[0].dtype == torch.float64


def test_a_network_that_writes_over_its_images_does_not_change_those_of_the_caller():
    class Careless(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(192, 4)

        def forward(self, images):
            images.sub_(0.5)
            return self.layer(images.flatten(1)).relu()

    images = IMAGES.clone()
    find_sites(Careless().eval(), images)
    assert torch.equal(images, IMAGES)


def test_preprocessing_and_fixed_batches_stay_around_the_network():
    network = rectified(Shared)
    steps = Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    bounds = [0.3, 0.2, 0.4]
    whole = bounded_copy(Preprocessed(InFixedBatches(network, 4), steps), IMAGES, bounds)
    inner = bounded_copy(network, IMAGES, bounds)
    assert isinstance(whole.network, Preprocessed)
    torch.testing.assert_close(scores(whole.network), scores(inner.network, steps.inputs(IMAGES)))
    assert len(whole.bounds()) == 3
    assert None not in whole.bounds()


def test_batch_norm_can_still_be_folded_into_the_bounded_network():
    bounded = bounded_copy(rectified(Shared), IMAGES, some_bounds(rectified(Shared)))
    folded = fuse(bounded.network)
    assert not any(isinstance(module, nn.BatchNorm2d) and module.affine for module in folded.modules())
    torch.testing.assert_close(scores(folded), scores(bounded.network))


def test_modules_see_the_values_of_their_site():
    network = rectified(Relatives)
    seen = {}

    class Seeing(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, values):
            seen[self.name] = values
            return values

    rebuilt = with_modules_at_sites(network, IMAGES, lambda site, values: Seeing(site.name))
    scores(rebuilt.network)
    for site, values in sites_by_calls(network, IMAGES):
        assert torch.equal(seen[site.name], values)


def test_a_network_without_rectifiers_is_refused_with_a_reason():
    with pytest.raises(NothingToBound, match=r"^Gelu: nothing to bound, .*GELU instead\)$"):
        find_sites(rectified(Gelu), IMAGES)


def test_a_part_in_torchscript_is_refused():
    network = nn.Sequential(torch.jit.trace(rectified(Shared), IMAGES), nn.ReLU())
    with pytest.raises(ExecutionError, match="its part 0 is TorchScript"):
        find_sites(network, IMAGES)


def test_bounds_that_do_not_fit_are_refused():
    network = rectified(Shared)
    with pytest.raises(UsageError, match="wanted 3 bounds, one a site; got 2"):
        bounded_copy(network, IMAGES, [1.0, 1.0])
    with pytest.raises(UsageError, match="wanted 3 bounds, one a site; got 4"):
        bounded_copy(network, IMAGES, [1.0] * 4)
    with pytest.raises(UsageError, match=r"site relu:2 has 4 channels; got a bound of shape \(5,\)"):
        bounded_copy(network, IMAGES, [1.0, torch.ones(5), 1.0])


def test_a_network_that_fails_is_one_line():
    with pytest.raises(ExecutionError, match=r"^Shared failed on its images: RuntimeError: .*") as error:
        find_sites(rectified(Shared), IMAGES[:, :1])
    assert "\n" not in str(error.value)


def test_a_compiled_network_is_bounded_like_what_was_compiled():
    network = rectified(Shared)
    bounded = bounded_copy(torch.compile(network), IMAGES, [0.3, 0.2, 0.4])
    assert torch.equal(scores(bounded.network), scores(bounded_copy(network, IMAGES, [0.3, 0.2, 0.4]).network))


def test_a_path_that_changes_with_the_image_is_noticed():
    class Moody(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(192, 4)

        def forward(self, images):
            values = self.layer(images.flatten(1)).relu()
            return values.relu() if images.mean() > 0.9 else values

    bounded = bounded_copy(Moody().eval(), IMAGES, [1.0])
    with pytest.raises(ExecutionError, match="called more rectifiers; wanted the same 1 for every image"):
        bounded.network(torch.ones_like(IMAGES))
    bounded = bounded_copy(Moody().eval(), torch.ones_like(IMAGES), [1.0, 1.0])
    with pytest.raises(ExecutionError, match="called 1 rectifiers; wanted the same 2 for every image"):
        bounded.network(IMAGES)
