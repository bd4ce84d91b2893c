"""The attack on decisions alone: how near it gets, what it asks, and that it looks at nothing but the class."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auditkit.queries import Queries
from auditkit.testing import (
    LinearModel,
    assert_contract,
    linear_distance,
    run_check,
    toy_model,
    toy_origin,
    toy_samples,
)
from auditkit_plugins import decision
from auditkit_plugins.decision import Decision

NETWORK = LinearModel(classes=2, seed=1)
SAMPLES = toy_samples(12, seed=2, network=NETWORK)
LEAST = linear_distance(NETWORK, SAMPLES.images, SAMPLES.labels, "linf").numpy()
FAR_BELOW_ALL = 1e-6


@pytest.fixture(scope="module")
def model():
    return toy_model(NETWORK, SAMPLES.images)


class Constant(nn.Module):
    """Says the same whatever it is shown."""

    def forward(self, images):
        return torch.tensor([2.0, 1.0]).expand(len(images), 2) + 0 * images.flatten(1)[:, :1]


class Recorder:
    """Answers an attack's queries with a network, and keeps what was asked."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.asked: list[torch.Tensor] = []

    def logits(self, images):
        self.asked.append(images)
        with torch.no_grad():
            return self.network(images)


def stepped(attack, model, network, samples, times):
    """Return what was asked, and the states before each step and after the last."""
    recorder = Recorder(network)
    states = [attack.start(toy_origin(attack, model, samples, float("inf")))]
    for _ in range(times):
        states.append(attack.step(recorder, states[-1]))
    return recorder.asked, states


@pytest.mark.parametrize("preset", ["smoke", "standard", "full"])
def test_every_preset_keeps_the_contract(preset):
    assert_contract(Decision, options={**Decision.spec.presets[preset], "queries": 25})


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 12), (3, 8, 4)])
def test_it_takes_images_of_any_shape_grey_ones_and_two_classes(shape):
    network = LinearModel(classes=2, shape=shape, seed=1)
    samples = toy_samples(9, shape=shape, network=network, wrong_every=4)
    assert_contract(Decision(eps=(0.05, 0.3), queries=30), network=network, samples=samples)


def test_on_a_linear_model_it_comes_within_five_percent_of_the_nearest_success(model):
    findings = run_check(Decision(eps=(FAR_BELOW_ALL, 1.0), queries=800), model, SAMPLES)
    correct = LEAST > 0
    np.testing.assert_array_equal(findings.columns["fooled"], correct)
    ratio = findings.columns["distance"][correct] / LEAST[correct]
    assert (ratio >= 0.999).all(), "nothing can be nearer than the closed form"
    assert (ratio <= 1.05).all()


def test_budgets_are_judged_by_the_distance_that_was_found(model):
    eps = (0.5 / 255, 1 / 255, 2 / 255, 8 / 255)
    columns = run_check(Decision(eps=eps, queries=800), model, SAMPLES).columns
    names = ("0.5/255", "1/255", "2/255", "8/255")
    for name, budget in zip(names, eps, strict=True):
        decided = np.abs(LEAST - budget) > 0.05 * budget
        wanted = (LEAST > 0) & (budget > LEAST)
        np.testing.assert_array_equal(columns[f"fooled@{name}"][decided], wanted[decided])
    assert not columns["fooled@0.5/255"].all()
    assert columns["fooled@0.5/255"].any()
    assert not columns["overstepped"].any()


def test_nothing_but_the_class_counts(model):
    """Scores that were squashed, scaled or shuffled among the losers change nothing."""

    class Disguised(nn.Module):
        def forward(self, images):
            best = NETWORK(images).argmax(1)
            return nn.functional.one_hot(best, 2) * (1 + 100 * images.flatten(1).sum(1, keepdim=True))

    check = Decision(eps=(1 / 255, 4 / 255), queries=150)
    plain = run_check(check, model, SAMPLES).columns
    disguised = run_check(check, toy_model(Disguised(), SAMPLES.images), SAMPLES).columns
    for name, column in plain.items():
        if name != "attacked_confidence":
            np.testing.assert_array_equal(disguised[name], column)


def test_a_row_leaves_once_it_is_inside_the_smallest_budget(model):
    patient = run_check(Decision(eps=(FAR_BELOW_ALL,), queries=400), model, SAMPLES)
    quick = run_check(Decision(eps=(2 / 255, 8 / 255), queries=400), model, SAMPLES)
    near, far = (LEAST > 0) & (LEAST < 0.7 / 255), LEAST > 2 / 255
    assert near.sum() >= 3
    assert far.any()
    assert (patient.forwards[near | far] >= 400).all()
    assert (quick.forwards[far] >= 400).all()
    assert (quick.forwards[near] < 200).all()
    assert quick.columns["fooled@2/255"][near].all()


def test_it_never_asks_more_often_than_it_was_told(model):
    for queries in (1, 2, 37):
        findings = run_check(Decision(eps=(FAR_BELOW_ALL,), queries=queries), model, SAMPLES)
        correct = findings.columns["clean_correct"]
        # One pass for the clean answer, and those for the verdict on the point that was found.
        verdicts = 1 + findings.columns["refuted"]
        assert (findings.forwards[correct] <= 1 + queries + verdicts[correct]).all()
        assert (findings.forwards[correct] > queries).all()


def test_it_asks_inside_the_range_however_far_out_it_searches(model):
    samples = replace(SAMPLES, images=SAMPLES.images.round())
    asked, _ = stepped(Decision(), model, NETWORK, samples, 60)
    assert all(float(images.min()) >= 0 and float(images.max()) <= 1 for images in asked)
    assert float((asked[0] - samples.images).abs().max()) == 1


def test_a_model_that_cannot_be_fooled_is_left_alone_in_the_end():
    model = toy_model(Constant(), SAMPLES.images)
    samples = replace(SAMPLES, labels=torch.zeros_like(SAMPLES.labels))
    findings = run_check(Decision(queries=30), model, samples)
    assert not findings.columns["found"].any()
    assert findings.columns["robust"].all()
    assert (findings.forwards >= 1 + 30).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 9), (3, 7, 4), (3, 8, 8)])
def test_the_blocks_of_each_level_are_tried_in_turn_and_cover_every_value_once(shape):
    """On a model that is never fooled, every trial fails, and each query shows one block."""
    images = torch.full((2, *shape), 0.5)
    samples = replace(toy_samples(2, shape=shape), images=images)
    network = Constant()
    values = images[0].numel()
    levels = (values - 1).bit_length() + 1
    asked, states = stepped(Decision(queries=1), toy_model(network, images), network, samples, 4 * values + 8)
    assert (asked[0] == 1).all(), "first the direction that it starts with: all values go up"
    seen: dict[int, list[torch.Tensor]] = {}
    for state, points in zip(states[1:], asked[1:], strict=False):
        seen.setdefault(int(state.level[0]), []).append(points[0] == 0)
    for level in range(levels):
        assert torch.equal(torch.stack(seen[level]).sum(0), torch.ones(shape, dtype=torch.int64))
    assert len(seen[0]) == 1
    assert len(seen[levels - 1]) == values
    assert seen[levels], "after the finest level the coarsest one follows again"


def test_a_block_is_a_patch_of_neighbouring_pixels_with_all_their_channels():
    ranks = decision._ranks(3, 8, 8, torch.device("cpu"))
    for quarter, corner in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        block = (ranks // 48) == quarter
        assert block[:, corner[0] : corner[0] + 4, corner[1] : corner[1] + 4].all()
        assert int(block.sum()) == 48


def test_what_was_found_never_moves_away_and_is_a_success(model):
    _, states = stepped(Decision(eps=(FAR_BELOW_ALL,)), model, NETWORK, SAMPLES, 300)
    for before, after in itertools.pairwise(states):
        assert (after.radius <= before.radius).all()
    final, right = states[-1], NETWORK(SAMPLES.images).argmax(1) == SAMPLES.labels
    assert final.radius.isfinite().all()
    assert (NETWORK(final.images).argmax(1) != SAMPLES.labels).all()
    away = (final.images - SAMPLES.images).abs().flatten(1).amax(1)
    assert (away[right] <= states[-1].radius[right] * 1.0001).all()


def test_within_a_finite_budget_no_query_leaves_it(model):
    eps = torch.full((12,), 3 / 255)
    attack = Decision(eps=(3 / 255,), queries=80)
    state = attack.start(replace(toy_origin(attack, model, SAMPLES, 3 / 255)))
    queries = Queries(model.exact, model, SAMPLES.images, SAMPLES.labels, eps, "linf")
    for _ in range(80):
        state = attack.step(queries, state)
    assert int(queries.overstepped.sum()) == 0
    assert queries.found.any()
    np.testing.assert_array_equal(LEAST[queries.found.numpy()] <= 3 / 255, True)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 100),
    shape=st.sampled_from([(1, 4, 4), (3, 4, 8), (1, 1, 8)]),
    queries=st.integers(1, 60),
)
def test_a_sample_gets_the_same_result_in_any_batch(seed, shape, queries):
    network = LinearModel(classes=3, shape=shape, seed=seed)
    samples = toy_samples(10, seed=seed, shape=shape, network=network)
    model = toy_model(network, samples.images)
    check = Decision(eps=(0.02, 0.2), queries=queries)
    wanted, *others = (run_check(check, model, samples, batch=batch) for batch in (64, 1, 7))
    for other in others:
        np.testing.assert_array_equal(other.forwards, wanted.forwards)
        for name, column in wanted.columns.items():
            np.testing.assert_array_equal(other.columns[name], column)
