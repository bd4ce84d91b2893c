"""Convergence: raised where gradients lead nowhere or steps are too few, and silent where all is well."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from broken_networks import Binarised, Rounded, base_network, with_activation
from torch import nn

from auditkit import Capability
from auditkit.findings import flags, metrics
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit_plugins.convergence import Convergence
from auditkit_plugins.pgd import PGD

GREY = 1 / 255


class Wavy(nn.Module):
    """Sines of random projections: few long steps jump over the hollows that more and shorter ones find."""

    def __init__(self, hidden=32, classes=4):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = LinearModel(classes=hidden, seed=2)
        self.last = nn.Parameter(torch.randn(hidden, classes, generator=generator))
        self.straight = LinearModel(classes=classes, seed=3)

    def forward(self, images):
        return (self.first(images) / 10).sin() @ self.last + 0.3 * self.straight(images)


class HalfMasked(nn.Module):
    """A dark first pixel switches the gradients off."""

    def __init__(self):
        super().__init__()
        self.body = LinearModel(classes=4, seed=2)

    def forward(self, images):
        dark = (images[:, :1, :1, :1] < 0.5).float()
        return self.body(torch.lerp(images, images.detach(), dark))


def audited(network, wrong_every=8, **options):
    samples = toy_samples(48, seed=6, network=network, wrong_every=wrong_every)
    model = toy_model(network, samples.images)
    assert model.exact is not None
    check = Convergence(**options)
    findings = run_check(check, model, samples)
    estimates, _ = metrics(check.spec, findings.columns)
    return {flag.id for flag in flags(check.spec, check.spec.id, estimates)}, findings, samples, model


@pytest.mark.parametrize("network", [LinearModel(classes=4, seed=2), LinearModel(classes=2, seed=1), base_network()])
def test_a_healthy_model_raises_no_flag(network):
    found, findings, _, _ = audited(network, eps=(GREY, 4 * GREY), steps=10)
    assert found == set()
    assert findings.columns["clean_correct"].sum() == 42


@pytest.mark.parametrize("network", [Rounded(), with_activation(base_network(), Binarised)])
def test_where_gradients_are_zero_even_an_attack_without_budget_gets_nowhere(network):
    found, findings, _, _ = audited(network, eps=(GREY,), steps=3)
    assert found == {"sanity.unbounded"}
    np.testing.assert_array_equal(findings.columns["unbounded_survivor"], findings.columns["clean_correct"])


def test_images_that_are_wrong_already_survive_nothing():
    _, findings, _, _ = audited(Rounded(), wrong_every=2, eps=(GREY,), steps=3)
    assert findings.columns["clean_correct"].sum() == 24
    assert not findings.columns["unbounded_survivor"][~findings.columns["clean_correct"]].any()
    assert not findings.columns["unconverged"][~findings.columns["clean_correct"]].any()


def test_the_survivors_are_exactly_the_images_without_gradients():
    found, findings, samples, _ = audited(HalfMasked(), eps=(GREY,), steps=3)
    masked = (samples.images[:, 0, 0, 0] < 0.5).numpy()
    assert found == {"sanity.unbounded"}
    np.testing.assert_array_equal(findings.columns["unbounded_survivor"], masked & findings.columns["clean_correct"])
    assert 10 < masked.sum() < 38


def test_the_flag_about_missing_gradients_casts_doubt_on_what_needs_them():
    rules = {rule.id: rule.doubts for rule in Convergence.spec.flags}
    assert rules["sanity.unbounded"] == {Capability.GRADIENTS}
    assert not rules["sanity.unconverged"]


def test_too_few_steps_are_noticed_and_enough_are_not():
    budgets = (0.5 * GREY, GREY, 2 * GREY, 4 * GREY)
    assert "sanity.unconverged" in audited(Wavy(), eps=budgets, steps=2)[0]
    assert audited(Wavy(), eps=budgets, steps=20)[0] == set()


def test_unconverged_are_those_that_twice_the_steps_fool_at_any_budget():
    budgets = (0.5 * GREY, GREY, 2 * GREY)
    _, findings, samples, model = audited(Wavy(), eps=budgets, steps=2)
    once, twice = (
        run_check(PGD(eps=budgets, steps=steps), model, samples, key="sanity.convergence").columns for steps in (2, 4)
    )
    each = [twice[name] & ~once[name] for name in once if name.startswith("fooled@")]
    assert sum(column.any() for column in each) >= 2
    np.testing.assert_array_equal(findings.columns["unconverged"], np.logical_or.reduce(each))


def test_every_pass_is_counted():
    network = Rounded()
    _, findings, _, _ = audited(network, eps=(0.01 * GREY,), steps=3)
    correct = findings.columns["clean_correct"]
    # Nothing moves, so each of the three attacks asks at every step and once at its end; PGD does not give up so soon.
    assert (findings.backwards[correct] == 10 + 3 + 6).all()
    assert (findings.forwards[correct] == (1 + 10 + 1) + (1 + 3 + 1) + (1 + 6 + 1)).all()
    assert (findings.forwards[~correct] == 3).all()
    assert not findings.backwards[~correct].any()


@pytest.mark.parametrize("preset", ["standard", "full"])
def test_the_check_keeps_the_contract(preset):
    assert_contract(Convergence, options={**Convergence.spec.presets[preset], "steps": 4})


def test_the_check_keeps_the_contract_on_a_network_with_hidden_gradients():
    assert_contract(Convergence(eps=(GREY,), steps=3), network=HalfMasked())
