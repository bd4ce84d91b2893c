"""Attacks that contradict each other are found out; attacks that agree raise nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from broken_networks import Rounded, base_network
from scripted_attacks import Scripted, scripted

from auditkit import Capability, Finished, Metric, Spec
from auditkit.findings import flags, metrics
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit_plugins.attack_sanity import AttackSanity
from auditkit_plugins.fgsm import FGSM
from auditkit_plugins.pgd import PGD
from auditkit_plugins.random_noise import GaussianNoise, UniformNoise

GREY = 1 / 255
PAIR = LinearModel(classes=2, seed=1)


def far_out(self, origin):
    return replace(Scripted.start(self, origin), eps=torch.full_like(origin.eps, 0.1))


def creeping_in(self, model, state):
    images = self.toward(state.clean, state.labels, state.eps.view(-1, 1, 1, 1))
    fooled = model.logits(images).argmax(1) != state.labels
    return replace(state, images=images, eps=state.eps * torch.where(fooled, 0.96, 1.02))


def nearest(rounds, eps):
    """Return a search for the nearest success, which comes within a few per cent of it if it is given time."""
    attack = scripted(PAIR, creeping_in, start=far_out, nearest=True, rounds=rounds, eps=eps)
    type(attack).spec = replace(type(attack).spec, needs=frozenset({Capability.GRADIENTS}))
    return attack


def judged(network, *attacks, wrong_every=8):
    samples = toy_samples(48, seed=6, network=network, wrong_every=wrong_every)
    model = toy_model(network, samples.images)
    finished = {}
    for number, attack in enumerate(attacks):
        key = f"{attack.spec.id}@{number}"
        finished[key] = Finished(attack, run_check(attack, model, samples, key=key).columns)
    return flagged(model, samples, finished)


def flagged(model, samples, finished):
    findings = run_check(AttackSanity(), model, samples, finished=finished)
    estimates, _ = metrics(AttackSanity.spec, findings.columns)
    raised = {flag.id: flag.doubts for flag in flags(AttackSanity.spec, AttackSanity.spec.id, estimates)}
    return raised, findings.columns, finished


@pytest.mark.parametrize("network", [PAIR, LinearModel(classes=4, seed=2), base_network()])
def test_attacks_on_a_healthy_model_agree(network):
    eps = (0.5 * GREY, 2 * GREY, 8 * GREY)
    attacks = PGD(eps=eps, steps=20), FGSM(eps=eps), UniformNoise(eps=eps, draws=20), GaussianNoise(eps=eps, draws=20)
    raised, columns, _ = judged(network, *attacks)
    assert raised == {}
    assert columns["clean_correct"].sum() == 42


def test_a_search_for_the_nearest_agrees_with_one_inside_a_budget():
    eps = (GREY, 2 * GREY, 4 * GREY)
    raised, _, finished = judged(PAIR, PGD(eps=eps, steps=20), nearest(120, eps))
    assert raised == {}
    shares = [one.columns["fooled@1/255"].mean() for one in finished.values()]
    assert 0.1 < min(shares) <= max(shares) < 0.8


def test_where_gradients_are_hidden_noise_wins():
    eps = (16 * GREY,)
    raised, columns, finished = judged(Rounded(), PGD(eps=eps, steps=10), UniformNoise(eps=eps, draws=60))
    assert raised == {"sanity.black_box_wins": ("gradients",)}
    pgd, noise = (one.columns["fooled"] for one in finished.values())
    np.testing.assert_array_equal(columns["black_box_wins"], noise & ~pgd)


def test_an_attack_that_creeps_loses_against_a_single_step():
    eps = (4 * GREY,)
    raised, columns, finished = judged(PAIR, PGD(eps=eps, steps=3, step_size=0.01), FGSM(eps=eps))
    assert raised == {"sanity.single_step_wins": ("gradients",)}
    pgd, fgsm = (one.columns["fooled"] for one in finished.values())
    np.testing.assert_array_equal(columns["single_step_wins"], fgsm & ~pgd)


@pytest.mark.parametrize("weak", ["the nearest", "the fixed"])
def test_a_nearest_success_that_contradicts_an_attack_inside_a_budget_is_found(weak):
    """Whichever of the two failed."""
    eps = (2 * GREY, 4 * GREY)
    searching = nearest(3 if weak == "the nearest" else 120, eps)
    fixed = PGD(eps=eps, steps=20) if weak == "the nearest" else PGD(eps=eps, steps=3, step_size=0.01)
    raised, columns, _ = judged(PAIR, fixed, searching)
    assert raised == {"sanity.distance_disagrees": ()}
    assert columns["distance_disagrees"].mean() > 0.2
    assert not columns["distance_disagrees"][~columns["clean_correct"]].any()


@dataclass(frozen=True)
class Sweep:
    """A check that is no attack, with a budget of its own."""

    spec: ClassVar[Spec] = Spec("made.sweep", "t", "w", (Metric("m", "robust", "t"),))
    eps: tuple[float, ...] = (GREY, 2 * GREY)


@pytest.fixture(scope="module")
def plain():
    samples = toy_samples(8, seed=6, network=PAIR, wrong_every=99)
    return toy_model(PAIR, samples.images), samples


def rows(*numbers):
    return np.isin(np.arange(8), numbers)


@pytest.mark.parametrize("eps", [(GREY, 2 * GREY), (2 * GREY, GREY)])
def test_a_check_that_fools_less_at_a_larger_budget_is_found(plain, eps):
    steady = Finished(Sweep(eps), {"robust@1/255": rows(0, 1, 2), "robust@2/255": rows(1)})
    assert flagged(*plain, {"steady": steady})[0] == {}
    wavering = Finished(Sweep(eps), {"robust@1/255": rows(0), "robust@2/255": rows(0, 5)})
    raised, columns, _ = flagged(*plain, {"steady": steady, "wavering": wavering})
    assert raised == {"sanity.not_monotone": ()}
    np.testing.assert_array_equal(columns["not_monotone"], rows(5))


def found(attack, **fooled):
    """Return an attack that fools these rows: `at_1` at the budget of one grey level."""
    columns = {f"fooled@{name.removeprefix('at_')}/255": rows(*numbers) for name, numbers in fooled.items()}
    columns |= {name.replace("fooled", "robust"): ~column for name, column in columns.items()}
    return Finished(attack, {**columns, "found": rows(), "distance": np.full(8, np.nan)})


def test_the_weaker_wins_only_where_no_stronger_attack_of_that_budget_and_norm_succeeds(plain):
    noise = found(UniformNoise(eps=(GREY, 2 * GREY)), at_1=(0, 1, 2, 3), at_2=(0, 1, 2, 3, 4, 5))
    one, other = found(PGD(eps=(GREY,)), at_1=(0,)), found(PGD(eps=(GREY,), steps=3), at_1=(1, 7))
    _, columns, _ = flagged(*plain, {"noise": noise, "one": one, "other": other})
    np.testing.assert_array_equal(columns["black_box_wins"], rows(2, 3))
    elsewhere = found(PGD(eps=(2 * GREY,), norm="l2"), at_2=())
    _, columns, _ = flagged(*plain, {"noise": noise, "elsewhere": elsewhere})
    assert not columns["black_box_wins"].any(), "another norm has other budgets"
    _, columns, _ = flagged(*plain, {"noise": noise, "fgsm": found(FGSM(eps=(GREY,)), at_1=())})
    assert not columns["black_box_wins"].any(), "a single step is no match for many draws, and need not be"


def test_noise_without_a_bound_is_compared_with_nothing(plain):
    gaussian, pgd = found(GaussianNoise(eps=(GREY,)), at_1=(0, 1, 2, 3)), found(PGD(eps=(GREY,)), at_1=())
    unbounded = found(PGD(eps=(GREY,), norm="free"), at_1=())
    assert flagged(*plain, {"gaussian": gaussian, "pgd": pgd, "unbounded": unbounded})[0] == {}


def test_a_disagreement_about_images_close_to_the_budget_is_none(plain):
    budget = 2 * GREY
    far = np.array([0.90, 0.96, 1.04, 1.10, 0.90, 0.96, 1.04, np.nan]) * budget
    searching = Finished(
        nearest(1, (budget,)), {"found": ~np.isnan(far), "distance": far, "fooled@2/255": far < budget}
    )
    fixed = found(PGD(eps=(budget,)), at_2=(2, 3, 4, 5, 7))
    another_norm = found(PGD(eps=(budget,), norm="l2"), at_2=())
    _, columns, _ = flagged(*plain, {"nearest": searching, "fixed": fixed, "another": another_norm})
    np.testing.assert_array_equal(columns["distance_disagrees"], rows(0, 3, 7))


def test_nothing_that_ran_contradicts_nothing(plain):
    assert flagged(*plain, {})[0] == {}


def test_the_check_keeps_the_contract():
    eps = (GREY, 16 * GREY)
    beside = PGD(eps=eps, steps=3, step_size=0.01), FGSM(eps=eps), UniformNoise(eps=eps, draws=3)
    assert_contract(AttackSanity, beside=beside)
