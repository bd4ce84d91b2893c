"""Square Attack: its windows, its schedule, what it accepts, and what it can and cannot fool."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auditkit.budgets import budget_text
from auditkit.testing import (
    LinearModel,
    assert_contract,
    linear_distance,
    run_check,
    toy_model,
    toy_origin,
    toy_samples,
)
from auditkit.threat import allowed, distance
from auditkit_plugins import square
from auditkit_plugins.square import Square

NETWORK = LinearModel(classes=2, seed=1)
SAMPLES = toy_samples(12, seed=2, network=NETWORK)
EPS = 0.1


@pytest.fixture(scope="module")
def model():
    return toy_model(NETWORK, SAMPLES.images)


class Constant(nn.Module):
    """Says the same whatever it is shown: no change is ever kept."""

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


def stepped(attack, network, samples, times, **origin):
    """Return what was asked, and the states before each step and after the last."""
    recorder = Recorder(network)
    model = toy_model(network, samples.images)
    states = [attack.start(replace(toy_origin(attack, model, samples, attack.eps[-1]), **origin))]
    for _ in range(times):
        states.append(attack.step(recorder, states[-1]))
    return recorder.asked, states


def changed_windows(attack, shape, times, n=4, warm=True):
    """Return bool (times, n, H, W): where each query after the first differs from the start, if nothing is kept.

    A warm start lies at the image itself, which no corner of the ball equals: the whole window then differs.
    """
    samples = toy_samples(n, seed=7, shape=shape)
    begin = {"points": samples.images, "warm": torch.full((n,), warm)}
    asked, _ = stepped(attack, Constant(), samples, times + 1, **begin)
    return torch.stack([(points != asked[0]).any(1) for points in asked[1:]])


def is_rectangle(mask):
    rows, columns = mask.any(1), mask.any(0)
    return torch.equal(mask, rows.unsqueeze(1) & columns) and contiguous(rows) and contiguous(columns)


def contiguous(line):
    at = line.nonzero().flatten()
    return len(at) > 0 and int(at[-1] - at[0]) + 1 == len(at)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("preset", ["smoke", "standard", "full"])
def test_every_preset_keeps_the_contract(preset, norm):
    options = {**Square.spec.presets.get(preset, {}), "queries": 12, "restarts": 2, "norm": norm}
    assert_contract(Square, options=options)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 4, 12), (3, 8, 4)])
def test_it_takes_images_of_any_shape_grey_ones_and_two_classes(shape, norm):
    network = LinearModel(classes=2, shape=shape, seed=1)
    samples = toy_samples(9, shape=shape, network=network, wrong_every=4)
    assert_contract(Square(eps=(0.05, 0.3), norm=norm, queries=20), network=network, samples=samples)


@pytest.mark.parametrize(("norm", "eps", "share"), [("linf", 1 / 255, 0.8), ("l2", 0.07, 0.35)])
def test_on_a_linear_model_it_fools_what_is_clearly_foolable_and_nothing_that_cannot_be(model, norm, eps, share):
    least = linear_distance(NETWORK, SAMPLES.images, SAMPLES.labels, norm).numpy()
    findings = run_check(Square(eps=(eps,), norm=norm, queries=600, give_up=False), model, SAMPLES)
    fooled, clearly, beyond = findings.columns["fooled"], (least > 0) & (least < share * eps), least > 1.0001 * eps
    assert clearly.sum() >= 3
    assert beyond.sum() >= 3
    assert fooled[clearly].all()
    assert not fooled[beyond].any()
    assert (findings.columns["distance"][fooled] >= 0.999 * least[fooled]).all()
    assert not findings.columns["overstepped"].any()


def test_it_starts_at_stripes_of_full_strength(model):
    asked, states = stepped(Square(eps=(EPS,), queries=3), NETWORK, SAMPLES, 1)
    change = states[0].images - SAMPLES.images
    assert torch.equal(asked[0], states[0].images), "the first query is the start"
    torch.testing.assert_close(change.abs(), torch.full_like(change, EPS), atol=1e-6, rtol=0)
    stripes = change.sign()
    assert torch.equal(stripes, stripes[:, :, :1].expand_as(stripes))
    assert not torch.equal(stripes[0], stripes[1])
    assert stripes[:, :, 0].std(2).max() > 0
    assert stripes[:, :, 0].std(1).max() > 0


def test_each_row_has_its_own_window_and_all_are_rectangles():
    windows = changed_windows(Square(eps=(EPS,), queries=400), (3, 8, 8), 100)
    assert all(is_rectangle(mask) for mask in windows.flatten(0, 1))
    apart = [not torch.equal(one, two) for one, two in windows[:, :2]]
    assert sum(apart) > 50


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(1, 9, 9), (3, 7, 12), (1, 12, 5)])
def test_windows_reach_every_pixel_the_last_row_and_column_too(shape, norm):
    windows = changed_windows(Square(eps=(EPS,), norm=norm, queries=10**6, p_init=0.05), shape, 150)
    reached = windows.flatten(0, 1).sum(0)
    assert (reached > 0).all()
    # The corners are the rarest, and yet no rarity: one window in as many as there are places for it.
    for row, column in itertools.product((0, -1), (0, -1)):
        assert int(reached[row, column]) >= 1


def test_the_windows_shrink_at_the_papers_shares_of_the_queries():
    queries, side = 1000, 32
    windows = changed_windows(Square(eps=(EPS,), queries=queries, give_up=False), (3, side, side), 900, n=1)[:, 0]
    sides = windows.flatten(1).sum(1).sqrt()
    for query, halvings in (
        (1, 0),
        (4, 1),
        (15, 2),
        (40, 3),
        (90, 4),
        (150, 5),
        (300, 6),
        (500, 7),
        (700, 8),
        (900, 9),
    ):
        wanted = max(1, round(math.sqrt(0.8 * side**2 / 2**halvings)))
        assert int(sides[query - 1]) == wanted, query


def test_a_window_that_does_not_fit_keeps_its_area():
    windows = changed_windows(Square(eps=(EPS,), queries=100_000, p_init=0.5), (3, 4, 32), 10)
    assert (windows.flatten(2).sum(2) == 64).all()
    assert all(is_rectangle(mask) for mask in windows.flatten(0, 1))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)])
def test_no_query_is_wasted_on_a_window_that_changes_nothing(shape):
    """Of one channel, half of all random colours would be those that the window has already."""
    attack = Square(eps=(EPS,), queries=50, p_init=0.02)
    assert changed_windows(attack, shape, 100, warm=False).flatten(2).any(2).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_change_is_kept_only_where_the_margin_falls(norm):
    attack = Square(eps=(EPS,), norm=norm, queries=80, give_up=False)
    asked, states = stepped(attack, NETWORK, SAMPLES, 80)
    kept = 0
    for points, before, after in zip(asked, states, states[1:], strict=False):
        scores = NETWORK(points).detach()
        own = scores.gather(1, SAMPLES.labels.unsqueeze(1)).squeeze(1)
        margin = 2 * own - scores.sum(1)
        fell = margin < before.margin
        kept += int(fell.sum())
        torch.testing.assert_close(after.margin, torch.where(fell, margin, before.margin))
        assert torch.equal(after.images, torch.where(fell.view(-1, 1, 1, 1), points, before.images))
    assert 12 < kept < 80 * 12


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [0.02, 0.9])
def test_every_query_stays_in_the_ball_and_the_range(norm, eps):
    samples = replace(SAMPLES, images=SAMPLES.images.clone())
    samples.images[0], samples.images[1] = 0.0, 1.0
    asked, _ = stepped(Square(eps=(eps,), norm=norm, queries=60), NETWORK, samples, 60)
    assert all(allowed(norm, eps, samples.images, points).all() for points in asked)


def test_the_l2_variant_spends_its_whole_budget():
    asked, _ = stepped(Square(eps=(0.3,), norm="l2", queries=60), NETWORK, SAMPLES, 60)
    for points in asked:
        lengths = distance("l2", SAMPLES.images, points)
        torch.testing.assert_close(lengths, torch.full_like(lengths, 0.3), atol=1e-5, rtol=0)


def test_the_l2_variant_moves_mass_from_one_window_to_another():
    """Outside of both windows a change is only scaled, all of it alike."""
    _, states = stepped(Square(eps=(0.3,), norm="l2", queries=60, p_init=0.1), NETWORK, SAMPLES, 40)
    for before, after in itertools.pairwise(states[1:]):
        old, new = before.images - SAMPLES.images, after.images - SAMPLES.images
        for row in range(len(SAMPLES)):
            ratio = (new[row] / old[row])[old[row].abs() > 1e-3]
            common = ratio.median()
            assert ((ratio - common).abs() < 1e-2).float().mean() > 0.5


def pyramids(side):
    """The paper's two pyramids, ring by ring."""

    def half(height, width):
        made = torch.zeros(height, width)
        for ring in range(max(height, width) // 2 + 1):
            top, left = max(height // 2 - ring, 0), max(width // 2 - ring, 0)
            made[top : height // 2 + ring + 1, left : width // 2 + ring + 1] += 1 / (ring + 1) ** 2
        return made / made.norm()

    both = torch.cat([half(side // 2, side), -half(side - side // 2, side)])
    return both / both.norm()


@pytest.mark.parametrize("side", [2, 3, 5, 6, 9, 13])
@pytest.mark.parametrize("turned", [False, True])
def test_the_pyramids_are_those_of_the_paper(side, turned):
    row, column = torch.arange(16.0).view(1, 1, -1, 1), torch.arange(20.0).view(1, 1, 1, -1)
    made = square._pyramids(row - 2, column - 5, torch.tensor([float(side)]), torch.tensor([[[[turned]]]]))
    wanted = torch.zeros(16, 20)
    wanted[2 : 2 + side, 5 : 5 + side] = pyramids(side).T if turned else pyramids(side)
    torch.testing.assert_close(made[0, 0], wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_row_that_comes_from_a_larger_budget_starts_where_that_search_ended(norm):
    warm = torch.arange(12) % 2 == 0
    points = (SAMPLES.images + 0.01).clamp(0, 1)
    asked, _ = stepped(Square(eps=(EPS,), norm=norm), NETWORK, SAMPLES, 1, points=points, warm=warm)
    came_from = (asked[0] == points).flatten(1).all(1)
    assert torch.equal(came_from, warm)


@pytest.mark.parametrize("queries", [1, 2, 30])
def test_it_never_asks_more_often_than_it_was_told(model, queries):
    check = Square(eps=(1e-6,), queries=queries, restarts=2, give_up=False)
    findings = run_check(check, model, SAMPLES)
    correct = findings.columns["clean_correct"]
    assert not findings.columns["fooled"].any()
    # One pass for the clean answer; then, for each restart, the queries and one pass for the verdict.
    assert (findings.forwards[correct] == 1 + 2 * (queries + 1)).all()
    assert (findings.forwards[~correct] == 1).all()
    assert not findings.backwards.any()


def test_giving_up_spares_queries_and_costs_no_verdict_where_progress_is_steady(model):
    eps = (0.05 / 255, 1 / 255, 2 / 255)
    patient = run_check(Square(eps=eps, queries=600, give_up=False), model, SAMPLES)
    quick = run_check(Square(eps=eps, queries=600), model, SAMPLES)
    for name in ("fooled@1/255", "fooled@2/255"):
        np.testing.assert_array_equal(quick.columns[name], patient.columns[name])
        assert patient.columns[name].any()
    stuck = patient.columns["fooled@1/255"] & ~patient.columns[f"fooled@{budget_text(eps[0])}"]
    assert stuck.any()
    assert quick.forwards[stuck].sum() < 0.9 * patient.forwards[stuck].sum()


def test_a_model_that_nothing_moves_is_left_early():
    model = toy_model(Constant(), SAMPLES.images)
    samples = replace(SAMPLES, labels=torch.zeros_like(SAMPLES.labels))
    findings = run_check(Square(queries=2000), model, samples)
    assert findings.columns["robust"].all()
    assert (findings.forwards < 1000).all()


def test_the_scores_that_a_model_returns_are_not_written_to():
    """A model may return the same tensor again, or a view of one that it needs."""

    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.tensor([[2.0, 1.0, 0.0]]).repeat(256, 1))

        def forward(self, images):
            return self.table[: len(images)]

    network = Remembers()
    before = network.table.clone()
    samples = replace(SAMPLES, labels=torch.zeros_like(SAMPLES.labels))
    run_check(Square(queries=5), toy_model(network, samples.images), samples)
    assert torch.equal(network.table, before)


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 100),
    shape=st.sampled_from([(1, 4, 4), (3, 4, 8), (1, 1, 8)]),
    norm=st.sampled_from(["linf", "l2"]),
    queries=st.integers(1, 60),
)
def test_a_sample_gets_the_same_result_in_any_batch(seed, shape, norm, queries):
    network = LinearModel(classes=3, shape=shape, seed=seed)
    samples = toy_samples(10, seed=seed, shape=shape, network=network)
    model = toy_model(network, samples.images)
    check = Square(eps=(0.02, 0.2), norm=norm, queries=queries)
    wanted, *others = (run_check(check, model, samples, batch=batch) for batch in (64, 1, 7))
    for other in others:
        np.testing.assert_array_equal(other.forwards, wanted.forwards)
        for name, column in wanted.columns.items():
            np.testing.assert_array_equal(other.columns[name], column)
