"""The noise attacks: inside the budget, by their own formula, and held to the contract."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from auditkit.queries import Queries
from auditkit.samples import Samples
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_origin, toy_samples
from auditkit.threat import allowed, distance
from auditkit_plugins.fgsm import FGSM
from auditkit_plugins.pgd import PGD
from auditkit_plugins.random_noise import GaussianNoise, UniformNoise

NETWORK = LinearModel(classes=3, seed=4)
SAMPLES = toy_samples(12, seed=1, network=NETWORK)


@pytest.fixture(scope="module")
def model():
    return toy_model(NETWORK, SAMPLES.images)


@pytest.mark.parametrize("preset", ["smoke", "standard", "full"])
@pytest.mark.parametrize("kind", [FGSM, PGD, GaussianNoise, UniformNoise])
def test_every_preset_keeps_the_contract(kind, preset):
    short = {PGD: {"steps": 5, "restarts": 2}, GaussianNoise: {"draws": 3}, UniformNoise: {"draws": 3}}
    assert_contract(kind, options={**kind.spec.presets[preset], **short.get(kind, {})})


def driven(model, attack, eps, images):
    """Return the images of every state, for rows that are never stopped."""
    n = len(images)
    budgets, labels = torch.full((n,), eps), SAMPLES.labels[:n]
    state = attack.start(toy_origin(attack, model, Samples(images, labels, SAMPLES.ids[:n]), eps))
    states = [state]
    for _ in range(attack.steps):
        state = attack.step(Queries(model.exact, model, images, labels, budgets, attack.norm), state)
        states.append(state)
    return [state.images for state in states]


@pytest.mark.parametrize(("norm", "eps"), [("linf", 8 / 255), ("linf", 0.9), ("l2", 0.5), ("l2", 30.0)])
def test_pgd_never_leaves_its_ball_nor_the_range(model, norm, eps):
    images = SAMPLES.images.clone()
    images[0], images[1] = 0.0, 1.0
    for step_size in (1.0, 7.0):
        for points in driven(model, PGD(eps=(eps,), norm=norm, steps=10, step_size=step_size), eps, images):
            assert allowed(norm, eps, images, points).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_uses_its_budget_up(model, norm):
    points = driven(model, PGD(eps=(0.1,), norm=norm, steps=10), 0.1, SAMPLES.images)
    assert (distance(norm, SAMPLES.images, points[-1]) > 0.099).all()


def test_pgd_starts_at_random_points_all_over_the_ball(model):
    for norm in ("linf", "l2"):
        start = driven(model, PGD(eps=(0.1,), norm=norm, steps=1), 0.1, SAMPLES.images)[0]
        lengths = distance(norm, SAMPLES.images, start)
        assert (lengths > 0).all()
        assert lengths.unique().numel() == len(lengths)
    assert float(lengths.min()) < 0.05 < float(lengths.max())


def test_the_steps_of_pgd_begin_at_their_stated_length_and_shorten_to_almost_nothing(model):
    eps, clean = 0.1, SAMPLES.images
    points = driven(model, PGD(eps=(eps,), steps=8, step_size=0.3), eps, clean)
    sizes = []
    for before, after in itertools.pairwise(points):
        moved = (after - before).abs()
        free = ((after - clean).abs() < eps - 1e-6) & (moved > 0)
        if free.any():
            sizes.append(float(moved[free].median()))
            assert torch.allclose(moved[free], moved[free].median(), atol=1e-6), "all values move equally far"
    assert len(sizes) >= 3
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == pytest.approx(0.3 * eps, rel=0.05)
    assert sizes[-1] < 0.2 * sizes[0]


def test_pgd_gives_up_only_rows_that_would_not_be_fooled_anyway(model):
    eps = (0.5 / 255, 1 / 255, 2 / 255)
    patient = run_check(PGD(eps=eps, steps=20, give_up=False), model, SAMPLES)
    quick = run_check(PGD(eps=eps, steps=20), model, SAMPLES)
    for name in ("fooled@0.5/255", "fooled@1/255", "fooled@2/255"):
        np.testing.assert_array_equal(quick.columns[name], patient.columns[name])
    assert quick.backwards.sum() < patient.backwards.sum()


def test_fgsm_is_one_signed_step_up_the_cross_entropy(model):
    start, end = driven(model, FGSM(eps=(0.05,)), 0.05, SAMPLES.images)
    leaf = SAMPLES.images.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(NETWORK(leaf), SAMPLES.labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert torch.equal(start, SAMPLES.images)
    assert torch.equal(end, (SAMPLES.images + 0.05 * gradient.sign()).clamp(0, 1))


def test_uniform_noise_fills_its_budget_and_draws_anew_each_time(model):
    draws = driven(model, UniformNoise(draws=5), 0.1, SAMPLES.images)
    for points in draws:
        assert allowed("linf", 0.1, SAMPLES.images, points).all()
    offsets = torch.stack(draws[:5]) - SAMPLES.images
    assert (offsets.abs().flatten(1).amax(1) > 0.099).all()
    assert abs(float(offsets.mean())) < 1e-3
    assert float(offsets.std()) == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert all(not torch.equal(one, two) for one, two in itertools.pairwise(draws[:5]))


def test_gaussian_noise_has_the_deviation_that_it_names(model):
    draws = driven(model, GaussianNoise(draws=5), 0.05, SAMPLES.images)
    offsets = torch.stack(draws[:5]) - SAMPLES.images
    assert float(offsets.std()) == pytest.approx(0.05, rel=0.02)
    assert all(float(points.min()) >= 0 and float(points.max()) <= 1 for points in draws)


def test_random_noise_spends_one_query_a_draw(model):
    findings = run_check(UniformNoise(eps=(1e-6,), draws=7), model, SAMPLES)
    correct = findings.columns["clean_correct"]
    assert (findings.forwards[correct] == 1 + 7 + 1).all()
    assert not findings.backwards.any()
    assert not findings.columns["fooled"].any()


def test_the_attack_that_follows_gradients_beats_chance(model):
    eps = (1.5 / 255,)
    by_gradient = run_check(PGD(eps=eps, steps=10), model, SAMPLES).columns["fooled"]
    by_chance = run_check(UniformNoise(eps=eps, draws=10), model, SAMPLES).columns["fooled"]
    assert by_gradient.sum() > by_chance.sum()
    assert np.all(by_gradient | ~by_chance)
