"""Integrated gradients: equal to Captum's, complete where theory says so, and honest about it where not."""

from __future__ import annotations

import captum.attr
import numpy as np
import pytest
import torch
from explained_networks import Rectified, TinyViT, fill, loaded
from torch import nn

from auditkit import Differentiable
from auditkit.findings import flags, metrics
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit_plugins.attribution import integrated_gradients
from auditkit_plugins.attribution.integrated_gradients import baseline_images
from auditkit_plugins.integrated_map import IntegratedGradients


@pytest.fixture(scope="module")
def network():
    return fill(Rectified("in place"))


@pytest.fixture(scope="module")
def samples(network):
    return toy_samples(8, seed=3, network=network)


@pytest.mark.parametrize("baseline", ["black", "grey", "blur", "mean"])
@pytest.mark.parametrize("steps", [5, 32])
@pytest.mark.parametrize("kind", ["convolutions", "transformer"])
def test_contributions_are_captums(network, samples, baseline, steps, kind):
    images = samples.images
    if kind == "transformer":
        network = fill(TinyViT())
        images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    classes = samples.labels[: len(images)]
    got = integrated_gradients(loaded(network, images).exact, images, classes, steps, baseline).contributions
    wanted = captum.attr.IntegratedGradients(network).attribute(
        images, baselines=baseline_images(images, baseline), target=classes, n_steps=steps, method="gausslegendre"
    )
    torch.testing.assert_close(got, wanted.float(), rtol=0, atol=1e-4 * float(wanted.abs().max()))


def test_a_network_that_ends_in_a_softmax_is_explained_before_it(network, samples):
    plain = toy_model(network, samples.images).exact
    ended = loaded(fill(Rectified("in place", end="softmax")), samples.images, outputs="probabilities").exact
    wanted, got = (integrated_gradients(model, samples.images, samples.labels, steps=4) for model in (plain, ended))
    assert torch.equal(got.contributions, wanted.contributions)
    assert torch.equal(got.change, wanted.change)


def test_on_a_linear_model_a_contribution_is_weight_times_distance_and_nothing_is_left_over():
    linear = LinearModel(classes=3)
    samples = toy_samples(7, network=linear)
    exact = toy_model(linear, samples.images).exact
    integrated = integrated_gradients(exact, samples.images, samples.labels, steps=1, baseline="grey")
    wanted = linear.weight.detach()[samples.labels].view(-1, 3, 8, 8) * (samples.images - 0.5)
    torch.testing.assert_close(integrated.contributions, wanted)
    torch.testing.assert_close(integrated.signed, wanted.sum(1))
    torch.testing.assert_close(integrated.maps, wanted.sum(1).abs())
    assert (integrated.residual < 1e-5).all()


class Polynomial(nn.Module):
    """A score of degree six along every line."""

    def forward(self, images):
        score = images.flatten(1).pow(6).sum(1)
        return torch.stack([score, torch.zeros_like(score)], 1)


def test_three_points_are_exact_for_a_score_of_degree_six_and_two_are_not():
    samples = toy_samples(5)
    exact = toy_model(Polynomial(), samples.images).exact
    residuals = [integrated_gradients(exact, samples.images, samples.labels, steps).residual for steps in (2, 3)]
    assert (residuals[0] > 1e-3).all()
    assert (residuals[1] < 1e-5).all()


def test_the_residual_is_what_the_contributions_miss_as_a_share_of_the_change(network, samples):
    exact = toy_model(network, samples.images).exact
    integrated = integrated_gradients(exact, samples.images, samples.labels, steps=2)
    own = samples.labels.unsqueeze(1)
    scores = network(samples.images).double()
    change = (scores - network(torch.zeros_like(samples.images)).double()).gather(1, own)[:, 0]
    torch.testing.assert_close(integrated.change, change)
    missed = (integrated.contributions.double().sum((1, 2, 3)) - change).abs()
    least = 0.01 * (scores.amax(1) - scores.amin(1))
    torch.testing.assert_close(integrated.residual, missed / torch.maximum(change.abs(), least))


def test_it_falls_below_one_percent_on_a_smooth_network_with_the_usual_steps():
    network = fill(TinyViT())
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    classes = network(images).argmax(1)
    integrated = integrated_gradients(loaded(network, images).exact, images, classes, baseline="grey")
    assert float(integrated.residual.max()) < 0.01


def test_an_image_that_is_its_own_baseline_has_no_contributions_and_no_residual(network):
    images = torch.full((2, 3, 8, 8), 0.5)
    integrated = integrated_gradients(toy_model(network, images).exact, images, torch.tensor([0, 1]), baseline="grey")
    assert not integrated.contributions.any()
    assert not integrated.residual.any()


def test_baselines_are_what_they_are_called():
    images = torch.rand(3, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    assert not baseline_images(images, "black").any()
    assert (baseline_images(images, "grey") == 0.5).all()
    mean = baseline_images(images, "mean")
    torch.testing.assert_close(mean, images.mean((2, 3), keepdim=True).expand_as(images))
    blur = baseline_images(images, "blur")
    assert (blur.flatten(1).std(1) < 0.3 * images.flatten(1).std(1)).all()
    torch.testing.assert_close(blur.mean((2, 3)), images.mean((2, 3)), rtol=0, atol=0.02)
    alone = [baseline_images(images[row : row + 1], "blur") for row in range(3)]
    assert torch.equal(torch.cat(alone), blur)


def test_no_more_points_are_made_at_once_than_fit_into_a_batch(network, samples, monkeypatch):
    exact = toy_model(network, samples.images).exact
    rows = []
    gradient = Differentiable.gradient

    def counted(self, images, *others):
        rows.append(len(images))
        return gradient(self, images, *others)

    monkeypatch.setattr(Differentiable, "gradient", counted)
    integrated_gradients(exact, samples.images, samples.labels, steps=64)
    assert rows == [exact.batch] * (8 * 64 // exact.batch)


def test_the_check_keeps_the_contract(network, samples):
    assert_contract(IntegratedGradients, options={"steps": 3})
    for baseline in ("blur", "mean"):
        check = IntegratedGradients(steps=3, baseline=baseline, top=0.3, gallery=2)
        assert_contract(check, network=network, samples=samples)


def test_the_check_counts_its_passes_and_flags_maps_that_do_not_add_up(samples):
    class Steps(nn.Module):
        def forward(self, images):
            rise = torch.sigmoid(200 * (images.flatten(1).mean(1) - 0.25))
            return torch.stack([rise, torch.zeros_like(rise)], 1)

    model = toy_model(Steps(), samples.images)
    check = IntegratedGradients(steps=2)
    findings = run_check(check, model, samples)
    estimates, _ = metrics(check.spec, findings.columns)
    assert estimates["residual"].value > 0.5
    assert [flag.id for flag in flags(check.spec, check.spec.id, estimates)] == ["explain.residual"]
    assert findings.forwards.tolist() == [5] * 8
    assert findings.backwards.tolist() == [2] * 8
    fine = run_check(IntegratedGradients(steps=256), model, samples)
    estimates, _ = metrics(check.spec, fine.columns)
    assert not flags(check.spec, check.spec.id, estimates)
    wanted = integrated_gradients(model.exact, samples.images, torch.zeros(8, dtype=torch.int64), 256)
    np.testing.assert_array_equal(fine.columns["residual"], wanted.residual.numpy())
    assert "baseline: black" in fine.exhibits[0].caption
