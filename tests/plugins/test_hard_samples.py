"""Which images are called hard, and whether the ranking follows what the attacks found."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from auditkit.check import Finished
from auditkit.testing import LinearModel, assert_contract, linear_distance, run_check, toy_model, toy_samples
from auditkit_plugins.hard_samples import HardSamples
from auditkit_plugins.pgd import PGD
from auditkit_plugins.steps import Steps

NETWORK = LinearModel(classes=2, seed=3)
SAMPLES = toy_samples(12, seed=4, network=NETWORK, wrong_every=5)
BUDGETS = tuple(k / 255 for k in (1, 2, 4, 8))


@pytest.fixture(scope="module")
def model():
    return toy_model(NETWORK, SAMPLES.images)


def judged(model, *attacks, **options):
    finished = {}
    for attack in attacks:
        findings = run_check(attack, model, SAMPLES)
        finished[attack.spec.id] = Finished(attack, findings.columns, findings.attacked)
    return run_check(HardSamples(**options), model, SAMPLES, finished=finished)


def test_it_keeps_the_contract():
    beside = (PGD(eps=BUDGETS[1:2], steps=3), Steps(eps=BUDGETS[2:3], steps=3))
    assert_contract(HardSamples(), network=NETWORK, samples=SAMPLES, beside=beside)


def test_the_nearer_the_boundary_the_harder(model):
    """A ranking against the distance would tell people to collect the wrong images."""
    columns = judged(model, PGD(eps=BUDGETS, steps=20)).columns
    correct = columns["clean_correct"]
    least = linear_distance(NETWORK, SAMPLES.images, SAMPLES.labels, "linf").numpy()
    withstood = (least[:, None] > np.array(BUDGETS)).sum(1)
    for one in correct.nonzero()[0]:
        for other in correct.nonzero()[0]:
            if withstood[one] < withstood[other]:
                assert columns["endurance"][one] < columns["endurance"][other]


def test_what_is_wrong_when_clean_has_no_endurance_and_is_hard(model):
    columns = judged(model, PGD(eps=BUDGETS, steps=3)).columns
    wrong = ~columns["clean_correct"]
    assert wrong.any()
    assert (columns["endurance"][wrong] == 0).all()
    assert columns["hard"][wrong].all()


def test_two_attacks_count_the_same():
    eps = ("robust@1/255", "robust@2/255")
    easy = {**{name: np.array([False]) for name in eps}, "fooled": np.array([True]), "steps": np.array([0.0])}
    robust = {**{name: np.array([True]) for name in eps}, "fooled": np.array([False]), "steps": np.array([np.nan])}
    samples = toy_samples(1, seed=4, network=NETWORK, wrong_every=9)
    spec = SimpleNamespace(spec=PGD.spec)
    finished = {"a": Finished(spec, easy), "b": Finished(spec, robust)}
    columns = run_check(HardSamples(), toy_model(NETWORK, samples.images), samples, finished=finished).columns
    assert columns["endurance"][0] == pytest.approx(0.5)
    assert columns["fell_to"][0] == 1


def test_without_attacks_nothing_is_said_against_an_image(model):
    columns = run_check(HardSamples(), model, SAMPLES, finished={}).columns
    np.testing.assert_array_equal(columns["endurance"], columns["clean_correct"].astype(float))
    np.testing.assert_array_equal(columns["hard"], ~columns["clean_correct"])


def test_the_gallery_shows_what_the_attacks_made_of_the_hardest(model):
    attack = PGD(eps=(0.1,), steps=10)
    findings = run_check(attack, model, SAMPLES)
    finished = {"noise.pgd": Finished(attack, findings.columns, findings.attacked)}
    exhibits = run_check(HardSamples(), model, SAMPLES, finished=finished).exhibits
    found = findings.columns["found"].nonzero()[0].tolist()
    shown = 0
    for exhibit in exhibits:
        row = SAMPLES.ids.index(exhibit.sample)
        for panel in exhibit.panels[1:]:
            wanted = findings.attacked[found.index(row)] / 65535
            np.testing.assert_allclose(panel.array / 255, wanted.transpose(1, 2, 0), atol=0.5 / 255 + 1e-4)
            shown += 1
    assert shown >= 5
