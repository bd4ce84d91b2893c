"""Every distortion of a camera: its form, its draws, its strength, and its gradients."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest
import torch

from auditkit import Streams
from auditkit_plugins.camera import DIFFERENTIABLE, DISTORTIONS, RANDOM, STRENGTHS, DistortionName, photographed

NAMES = list(DISTORTIONS)


def streams(n, seed=0):
    return Streams.of(seed, "test", [f"sample-{row}" for row in range(n)])


def textured(n, shape=(3, 32, 32), seed=3):
    return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))


def test_names_and_functions_are_the_same_list():
    assert get_args(DistortionName) == tuple(DISTORTIONS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 13, 9), (3, 40, 50), (1, 1, 1)])
def test_any_size_and_both_numbers_of_channels_give_images_of_the_same_form(name, shape):
    images = torch.cat([textured(2, shape), torch.zeros(1, *shape), torch.ones(1, *shape)])
    before = images.clone()
    for strength in STRENGTHS:
        got = DISTORTIONS[name](images, strength, streams(4), 2)
        assert got.shape == images.shape
        assert got.dtype == torch.float32
        assert float(got.min()) >= 0
        assert float(got.max()) <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 13, 9), (1, 9, 11)])
def test_an_image_is_distorted_to_the_same_bits_in_any_batch(name, shape):
    images, rng = textured(23, shape), streams(23)
    together = DISTORTIONS[name](images, 3, rng, 1)
    for size in (1, 7):
        parts = [
            DISTORTIONS[name](images[at : at + size], 3, Streams(rng.keys[at : at + size]), 1)
            for at in range(0, 23, size)
        ]
        assert torch.equal(together, torch.cat(parts))


@pytest.mark.parametrize("name", NAMES)
def test_samples_draws_and_seeds_differ_where_there_is_chance(name):
    images = textured(1).expand(2, -1, -1, -1)
    first, second = DISTORTIONS[name](images, 2, streams(2), 0)
    another_draw = DISTORTIONS[name](images, 2, streams(2), 1)[0]
    another_seed = DISTORTIONS[name](images, 2, streams(2, seed=1), 0)[0]
    for other in (second, another_draw, another_seed):
        assert torch.equal(first, other) == (name not in RANDOM)


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_each_row_may_be_at_a_draw_of_its_own(name):
    images, rng = textured(3), streams(3)
    got = DISTORTIONS[name](images, 2, rng, torch.tensor([5, 0, 2]))
    wanted = [DISTORTIONS[name](images, 2, rng, step)[row] for row, step in enumerate((5, 0, 2))]
    assert torch.equal(got, torch.stack(wanted))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "rounding"])
def test_a_larger_strength_changes_more(name):
    images, rng = textured(12), streams(12)
    changes = [float((DISTORTIONS[name](images, strength, rng, 0) - images).abs().mean()) for strength in STRENGTHS]
    assert changes[0] > 0
    assert all(less < more for less, more in itertools.pairwise(changes))


def test_the_draws_of_images_cover_the_range_and_not_more():
    """Brightness of strength 3 lets between 2 ** -0.8 and 2 ** 0.8 times the light in, and lifts by up to 0.4."""
    dark = torch.full((500, 1, 1, 1), 0.001)
    factor = DISTORTIONS["brightness"](dark, 3, streams(500), 0).flatten() / 0.001
    assert 1.3 < float(factor.quantile(0.9)) < float(factor.max()) < 1.4 * 2**0.8
    assert 0.6 * 2**-0.8 < float(factor.min()) < float(factor.quantile(0.1)) < 0.8


@pytest.mark.parametrize("name", sorted(DIFFERENTIABLE))
def test_the_gradient_is_that_of_the_image_alone(name):
    images, rng = (0.3 + 0.4 * textured(3, (2, 7, 9))).requires_grad_(), streams(3)
    weights = torch.rand(3, 2, 7, 9, generator=torch.Generator().manual_seed(8))

    def measured(values):
        return (DISTORTIONS[name](values, 2, rng, 4) * weights).flatten(1).double().sum(1)

    (gradient,) = torch.autograd.grad(measured(images).sum(), images)
    direction = torch.randn(3, 2, 7, 9, generator=torch.Generator().manual_seed(9))
    ahead, behind = measured(images.detach() + 1e-2 * direction), measured(images.detach() - 1e-2 * direction)
    slope = (gradient * direction).flatten(1).sum(1).double()
    torch.testing.assert_close(slope, (ahead - behind) / 2e-2, rtol=0.02, atol=0.02)


def test_photographs_differ_in_every_draw_and_repeat_with_it():
    """What expectation over transformation needs: the same step is the same shot, whatever the image."""
    rng = streams(1)
    dot = torch.zeros(1, 1, 32, 32)
    dot[..., 10:13, 18:21] = 1
    dots = [photographed(dot, 3, rng, step) for step in range(8)]
    assert torch.equal(dots[3], photographed(dot, 3, rng, 3))
    assert len({tuple(image.flatten().tolist()) for image in dots}) == 8
    middles = torch.stack([(image[0, 0] > 0.3).nonzero().float().mean(0) for image in dots])
    assert float(middles.std(0).min()) > 0.5
