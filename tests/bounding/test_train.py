"""Bounds learn while the weights stay; both learn together; the same seed gives the same bits."""

from __future__ import annotations

import math

import pytest
import torch
from rectified_networks import Branching, Perceptron, Shared, rectified
from torch.nn import functional

from auditkit.bounding import activation_quantiles, bounded_copy, fine_tune, train_bounds
from auditkit.errors import UsageError
from auditkit.models.loaded import digest_state

generator = torch.Generator().manual_seed(6)
IMAGES = torch.rand(64, 3, 8, 8, generator=generator)
LABELS = torch.randint(0, 5, (64,), generator=generator)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def bounded_network(kind=Shared, overflow="fold"):
    network = rectified(kind)
    return bounded_copy(network, IMAGES, activation_quantiles(network, [IMAGES], (0.9,)).bounds(0.9), overflow)


def loss(bounded):
    with torch.no_grad():
        return float(functional.cross_entropy(bounded.network(IMAGES), LABELS))


def weights(bounded):
    return {name: tensor for name, tensor in bounded.network.state_dict().items() if not name.endswith("start")}


@pytest.mark.parametrize("kind", [Shared, Branching])
def test_bounds_learn_to_lower_the_loss_and_no_weight_moves(kind):
    before = bounded_network(kind)
    after = train_bounds(before, IMAGES, LABELS, generator=seeded(), epochs=20, penalty=0.0, batch=16)
    assert loss(after) < loss(before)
    assert weights(after).keys() == weights(before).keys()
    assert all(torch.equal(tensor, weights(before)[name]) for name, tensor in weights(after).items())
    assert not any(torch.equal(first, second) for first, second in zip(before.bounds(), after.bounds(), strict=True))
    assert all((bound > 0).all() for bound in after.bounds())


def test_a_penalty_makes_smaller_bounds():
    before = bounded_network()
    sizes = []
    for penalty in (0.0, 1.0):
        after = train_bounds(before, IMAGES, LABELS, generator=seeded(), epochs=20, penalty=penalty, batch=16)
        ratios = [new / old.clamp(min=1e-3) for new, old in zip(after.bounds(), before.bounds(), strict=True)]
        sizes.append(float(torch.cat(ratios).mean()))
    assert sizes[1] < 0.9 * sizes[0]


def test_what_is_trained_is_a_copy_and_learns_nothing_afterwards():
    before = bounded_network()
    digest = digest_state(before.network)
    flags = [parameter.requires_grad for parameter in before.network.parameters()]
    after = train_bounds(before, IMAGES, LABELS, generator=seeded(), epochs=1)
    assert digest_state(before.network) == digest
    assert [parameter.requires_grad for parameter in after.network.parameters()] == flags
    assert all(parameter.grad is None for parameter in after.network.parameters())
    assert not any(module.training for module in after.network.modules())
    assert after.sites == before.sites


@pytest.mark.parametrize("learn", [train_bounds, fine_tune])
def test_the_same_seed_gives_the_same_bits_and_no_global_generator_moves(learn):
    before = bounded_network()

    def noisy(images, generator):
        return images + 0.1 * torch.randn(images.shape, generator=generator)

    state = torch.get_rng_state()
    runs = [
        learn(before, IMAGES, LABELS, generator=seeded(seed), epochs=2, batch=16, augment=noisy) for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    digests = [digest_state(run.network) for run in runs]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_fine_tuning_moves_weights_and_bounds_but_not_what_batch_norm_remembers():
    before = bounded_network()
    after = fine_tune(before, IMAGES, LABELS, generator=seeded(), epochs=10, rate=1e-2, batch=16, penalty=0.0)
    assert loss(after) < loss(before)
    moved = {name for name, tensor in weights(after).items() if not torch.equal(tensor, weights(before)[name])}
    assert moved == {name for name, _ in before.network.named_parameters()}
    assert not any(torch.equal(first, second) for first, second in zip(before.bounds(), after.bounds(), strict=True))


def test_fine_tuning_can_keep_the_bounds():
    before = bounded_network()
    after = fine_tune(before, IMAGES, LABELS, generator=seeded(), epochs=1, bound_rate=0.0)
    assert all(torch.equal(first, second) for first, second in zip(before.bounds(), after.bounds(), strict=True))
    assert digest_state(before.network) != digest_state(after.network)


def test_what_cannot_learn_is_refused():
    network = rectified(Perceptron)
    free = bounded_copy(network, IMAGES, [None, None])
    with pytest.raises(UsageError, match="no bounds that could learn"):
        train_bounds(free, IMAGES, LABELS, generator=seeded())
    partly = bounded_copy(network, IMAGES, [torch.tensor([math.inf, 1, 1, 1, 1, 1]), None])
    with pytest.raises(UsageError, match="finite, positive start; got inf"):
        train_bounds(partly, IMAGES, LABELS, generator=seeded())
    frozen = bounded_copy(torch.jit.freeze(torch.jit.script(network)), IMAGES, [1.0, 1.0])
    with pytest.raises(UsageError, match="no parameters that could learn"):
        fine_tune(frozen, IMAGES, LABELS, generator=seeded())
    with pytest.raises(UsageError, match="one label each; got 64 and 3"):
        train_bounds(bounded_network(), IMAGES, LABELS[:3], generator=seeded())
    with pytest.raises(UsageError, match=r"are positive; got 0, 64, \[0.02\]"):
        train_bounds(bounded_network(), IMAGES, LABELS, generator=seeded(), epochs=0)
