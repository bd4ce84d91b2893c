"""SmoothGrad: the mean of signed gradients at copies whose noise belongs to the image, and to nothing else."""

from __future__ import annotations

import captum.attr
import numpy as np
import pytest
import torch
from explained_networks import Rectified, TinyViT, fill, loaded

from auditkit import Streams, saliency
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit_plugins.attribution import smoothgrad
from auditkit_plugins.smoothgrad_map import SmoothGrad

NAMES = tuple(f"image {number}" for number in range(6))


@pytest.fixture(scope="module")
def network():
    return fill(Rectified("torch"))


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(2)
    return torch.rand(6, 3, 8, 8, generator=generator) * torch.linspace(0.2, 1, 6).view(-1, 1, 1, 1)


@pytest.fixture(scope="module")
def exact(network, images):
    return toy_model(network, images).exact


CLASSES = torch.tensor([0, 1, 2, 3, 4, 0])
STREAMS = Streams.of(0, "test", NAMES)


def test_without_noise_a_map_is_vanilla_saliency_bit_for_bit(exact, images):
    smoothed = smoothgrad(exact, images, CLASSES, STREAMS, draws=25, sigma=0.0)
    assert torch.equal(smoothed.maps, saliency(exact, images, CLASSES))
    assert torch.allclose(smoothed.steadiness, torch.ones(6, dtype=torch.float64))


def test_a_map_is_the_size_of_the_mean_of_signed_gradients_at_noise_of_the_images_own_range(network, exact, images):
    spread = 0.15 * (images.flatten(1).max(1).values - images.flatten(1).min(1).values).view(-1, 1, 1, 1)
    noisy = [images + spread * STREAMS.normal(draw, (3, 8, 8)) for draw in range(7)]
    gradients = [
        captum.attr.Saliency(network).attribute(copies.requires_grad_(), target=CLASSES, abs=False) for copies in noisy
    ]
    mean = torch.stack(gradients).double().mean(0)
    smoothed = smoothgrad(exact, images, CLASSES, STREAMS, draws=7)
    torch.testing.assert_close(smoothed.gradient.double(), mean, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(smoothed.maps, mean.abs().amax(1).float(), rtol=1e-5, atol=1e-7)
    even, odd = (torch.stack(gradients[start::2]).flatten(2).mean(0).double() for start in (0, 1))
    cosine = torch.nn.functional.cosine_similarity(even, odd)
    torch.testing.assert_close(smoothed.steadiness, cosine, rtol=1e-5, atol=1e-7)


def test_it_is_captums_noise_tunnel_in_the_long_run():
    """On a smooth network, and with so many draws that the noise of both is all but gone."""
    network = fill(TinyViT())
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    classes = torch.tensor([1, 3])
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(network))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        wanted = tunnel.attribute(
            images, target=classes, nt_samples=400, nt_samples_batch_size=50, stdevs=0.1, abs=False
        )
    span = images.amax((1, 2, 3)) - images.amin((1, 2, 3))
    exact = loaded(network, images).exact
    smoothed = smoothgrad(
        exact, images, classes, Streams.of(0, "test", NAMES[:2]), draws=400, sigma=0.1 / float(span[0])
    )
    cosine = torch.nn.functional.cosine_similarity(smoothed.gradient.flatten(1), wanted.flatten(1))
    assert (cosine > 0.97).all()


def test_a_network_that_ends_in_a_softmax_is_explained_before_it(network, exact, images):
    ended = loaded(fill(Rectified("torch", end="softmax")), images, outputs="probabilities").exact
    smoothed = smoothgrad(ended, images, CLASSES, STREAMS, draws=4)
    assert torch.equal(smoothed.maps, smoothgrad(exact, images, CLASSES, STREAMS, draws=4).maps)


def test_on_a_linear_model_noise_changes_nothing():
    linear = LinearModel(classes=3)
    samples = toy_samples(9, network=linear)
    smoothed = smoothgrad(
        toy_model(linear, samples.images).exact, samples.images, samples.labels, Streams.of(0, "", samples.ids)
    )
    weights = linear.weight.detach().view(3, 3, 8, 8).abs().amax(1)
    torch.testing.assert_close(smoothed.maps, weights[samples.labels])
    torch.testing.assert_close(smoothed.steadiness, torch.ones(9, dtype=torch.float64))


def test_a_map_that_is_luck_is_not_steady():
    """Where gradients of single draws have nothing in common, two means of them have not, either."""

    class Rough(torch.nn.Module):
        def forward(self, images):
            waves = torch.sin(1000 * images.flatten(1)).sum(1)
            return torch.stack([waves, torch.zeros_like(waves)], 1)

    samples = toy_samples(6)
    exact = toy_model(Rough(), samples.images).exact
    smoothed = smoothgrad(exact, samples.images, samples.labels, Streams.of(0, "", samples.ids))
    assert (smoothed.steadiness.abs() < 0.4).all()


def test_memory_holds_one_batch_whatever_the_number_of_draws(network, exact, images, monkeypatch):
    rows = []
    forward = Rectified.forward

    def counted(self, images):
        rows.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Rectified, "forward", counted)
    smoothgrad(exact, images, CLASSES, STREAMS, draws=100)
    assert max(rows) <= exact.batch
    assert sum(rows) < 1.2 * 6 * 100


def test_the_check_keeps_the_contract(network):
    samples = toy_samples(9, seed=1, network=network)
    assert_contract(SmoothGrad, options={"draws": 4})
    assert_contract(SmoothGrad(draws=5, sigma=0.3, top=0.3, gallery=2), network=network, samples=samples)


def test_the_check_counts_its_passes_and_reports_what_it_maps(network):
    samples = toy_samples(9, seed=1, network=network)
    model = toy_model(network, samples.images)
    findings = run_check(SmoothGrad(draws=6), model, samples, seed=3)
    predicted = network(samples.images).argmax(1)
    streams = Streams.of(3, "explain.smoothgrad\0", samples.ids)
    smoothed = smoothgrad(model.exact, samples.images, predicted, streams, draws=6)
    np.testing.assert_array_equal(findings.columns["steadiness"], smoothed.steadiness.numpy())
    flat = smoothed.maps.double().flatten(1).sort(1, descending=True).values
    np.testing.assert_allclose(findings.columns["concentration"], flat[:, :6].sum(1) / flat.sum(1), rtol=1e-12)
    assert findings.forwards.tolist() == [7] * 9
    assert findings.backwards.tolist() == [6] * 9
    panels = findings.exhibits[0].panels
    assert [panel.kind for panel in panels] == ["image", "overlay"]
    row = samples.ids.index(findings.exhibits[0].sample)
    np.testing.assert_array_equal(panels[1].array[:, :, 3], smoothed.maps[row].numpy())
