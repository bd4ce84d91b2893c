"""Gradients averaged over photographs: what they change, what they cost, and that they find what survives a camera."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditkit import Expectation, Spec, from_16bit
from auditkit.config import settings_from
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.streams import Streams
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins.apgd import APGD
from auditkit_plugins.camera import photographed
from auditkit_plugins.mask_patch import MaskPatch
from auditkit_plugins.pgd import PGD

SHAPE = (3, 8, 8)
NETWORK = LinearModel(classes=3, shape=SHAPE, seed=4)
SAMPLES = toy_samples(12, seed=5, shape=SHAPE, network=NETWORK)
CIFAR10 = Path(__file__).parents[3] / "shared" / "data" / "cifar10"
STORED = 2


@pytest.fixture(scope="module")
def model():
    return toy_model(NETWORK, SAMPLES.images)


@dataclass(frozen=True)
class Through(PGD):
    """PGD through a transform that the test chooses."""

    spec: ClassVar[Spec] = PGD.spec
    transform: ClassVar[object]
    draws: int = 2

    @property
    def goal(self):
        return "strongest"

    @property
    def expectation(self):
        return Expectation(type(self).transform, self.draws)


def through(transform, **options):
    return type("Made", (Through,), {"transform": staticmethod(transform)})(**options)


@pytest.mark.parametrize("kind", [PGD, APGD, MaskPatch])
def test_it_keeps_the_contract(kind):
    options = {"steps": 4, "eot": 2}
    assert_contract(kind, options=options, network=NETWORK, samples=SAMPLES)


@pytest.mark.parametrize(("given_value", "draws"), [("true", 4), (True, 4), ("false", 0), (3, 3), ("5", 5)])
def test_true_stands_for_some_draws(given_value, draws):
    planned = configure(PGD, {"eot": given_value}, "noise.pgd", "here")
    assert planned.check.eot == draws


def test_through_a_transform_that_changes_nothing_it_is_the_attack_itself(model):
    same = run_check(through(lambda images, rng, number: images * 1.0, steps=6), model, SAMPLES)
    plain = run_check(
        type("Strong", (PGD,), {"goal": property(lambda self: "strongest"), "spec": PGD.spec})(steps=6), model, SAMPLES
    )
    np.testing.assert_allclose(from_16bit(same.attacked), from_16bit(plain.attacked), atol=2e-5)
    np.testing.assert_array_equal(same.columns["found"], plain.columns["found"])


def test_gradients_come_through_the_transform(model):
    """Behind a mirror the gradient must be mirrored back; else the attack would climb where nobody looks."""
    mirrored = through(lambda images, rng, number: images.flip(3), steps=1, draws=1, step_size=1.0)
    findings = run_check(mirrored, model, SAMPLES)
    assert (findings.columns["overstepped"] == 0).all()
    flipped = LinearModel(classes=3, shape=SHAPE, seed=4)
    with torch.no_grad():
        flipped.weight.copy_(NETWORK.weight.view(3, *SHAPE).flip(3).flatten(1))
    images, labels = SAMPLES.images.clone().requires_grad_(True), SAMPLES.labels
    loss = torch.nn.functional.cross_entropy(NETWORK(images.flip(3)), labels, reduction="sum")
    (wanted,) = torch.autograd.grad(loss, images)
    loss = torch.nn.functional.cross_entropy(flipped(images), labels, reduction="sum")
    (got,) = torch.autograd.grad(loss, images)
    torch.testing.assert_close(got, wanted)


def test_every_draw_is_paid_for(model):
    findings = run_check(through(lambda images, rng, number: images * 1.0, steps=3, draws=5), model, SAMPLES)
    correct, fooled = findings.columns["clean_correct"], findings.columns["fooled"]
    assert (findings.backwards[correct] == 3 * 5).all()
    assert (findings.forwards[correct] == 1 + 3 * (5 + 1) + 1 + STORED * fooled[correct]).all()


def test_draws_differ_between_steps_and_samples_and_are_the_same_again(model):
    heard = []

    def noting(images, rng, number):
        heard.append((rng.keys.clone(), number.clone()))
        return images * 1.0

    run_check(through(noting, steps=3, draws=2, give_up=False), model, SAMPLES)
    keys, numbers = heard[0]
    assert len({tuple(key) for key in keys.tolist()}) * 2 == len(keys)
    assert numbers.view(-1, 2).tolist() == [numbers[:2].tolist()] * (len(numbers) // 2)
    assert len({tuple(number[:2].tolist()) for _, number in heard}) == 3


@settings(max_examples=6, deadline=None)
@given(batch=st.sampled_from([1, 7, 64]), kind=st.sampled_from([PGD, APGD, MaskPatch]))
def test_the_batch_changes_nothing(model, batch, kind):
    attack = kind(steps=4, eot=2)
    one, other = (run_check(attack, model, SAMPLES, batch=size) for size in (batch, 12))
    for name, column in one.columns.items():
        np.testing.assert_array_equal(column, other.columns[name], err_msg=name)
    np.testing.assert_array_equal(one.attacked, other.attacked)


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="the real models of ../shared/data are not here")
def test_on_a_real_network_what_it_finds_survives_new_photographs_more_often():
    """If it did not, an audit's physical figures would understate what an attacker with a camera in mind can do."""
    bench = set_up(
        Recipe(str(CIFAR10 / "resnet20.onnx"), str(CIFAR10 / "images_600.npz"), settings_from({"limit": 24}))
    )
    samples = bench.read(0, 24).samples
    survive = {}
    for eot in (0, 4):
        attack = PGD(eps=(4 / 255,), steps=20, eot=eot)
        findings = run_check(attack, bench.model, samples, batch=64, search=bench.search)
        found = torch.from_numpy(findings.columns["found"])
        images, labels = from_16bit(findings.attacked), samples.labels[found]
        rng = Streams.of(7, "new photographs", [name for name, one in zip(samples.ids, found, strict=True) if one])
        fooled = [bench.model.logits(photographed(images, 2, rng, draw)).argmax(1) != labels for draw in range(6)]
        survive[eot] = torch.stack(fooled).float().mean()
    assert survive[4] > survive[0] + 0.1
