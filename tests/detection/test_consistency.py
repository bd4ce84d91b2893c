"""The scores of a sweep: closed forms on hand-made logits, and independence of other images."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auditkit.detection import CONSISTENCY_SCORES, consistency


def logarithms(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


@pytest.fixture
def one():
    """One image of class 0; of four covers one leaves it, one weakens it, and two change it, to 1 and to 2."""
    logits = logarithms([0.8, 0.1, 0.1])
    sweep = logarithms([0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.3, 0.2, 0.5]).unsqueeze(0)
    return consistency(logits, sweep)


def test_the_scores_are_those_of_their_definitions(one):
    margins = [0.0, math.log(8) - math.log(2), math.log(8) + math.log(3.5), math.log(8) + math.log(5 / 3)]
    median = sorted(margins)[1]
    spread = sorted(abs(margin - median) for margin in margins)[1]
    wanted = {
        "flip": 1.0,
        "drop": 0.6,
        "dissent": 0.7,
        "margin": margins[2],
        "contrast": math.log1p((margins[2] - median) / spread),
        "agreement": 0.7 / 1.2,
        "locality": -2 / 4,
    }
    for name in CONSISTENCY_SCORES:
        assert float(one.score(name)) == pytest.approx(wanted[name]), name


def test_the_strongest_cover_and_the_vote_of_the_covers(one):
    assert one.window.tolist() == [2]
    assert one.label.tolist() == [1]
    assert one.decision.tolist() == [0]


def test_where_no_cover_dissents_the_decision_stands():
    found = consistency(logarithms([0.9, 0.1]), logarithms([0.8, 0.2], [0.7, 0.3]).unsqueeze(0))
    assert found.label.tolist() == [0]
    assert float(found.score("flip")) == 0
    assert float(found.score("agreement")) == 0


def test_covers_that_change_nothing_give_finite_scores():
    found = consistency(torch.zeros(2, 3), torch.zeros(2, 4, 3))
    assert bool(found.scores.isfinite().all())


@given(n=st.integers(1, 6), seed=st.integers(0, 99))
def test_an_images_scores_do_not_depend_on_the_others(n, seed):
    generator = torch.Generator().manual_seed(seed)
    logits, sweep = torch.randn(n, 4, generator=generator), torch.randn(n, 9, 4, generator=generator)
    together = consistency(logits, sweep)
    for row in range(n):
        alone = consistency(logits[row : row + 1], sweep[row : row + 1])
        assert torch.equal(alone.scores[0], together.scores[row])
        assert (int(alone.window), int(alone.label)) == (int(together.window[row]), int(together.label[row]))


def test_the_least_sure_cover_is_that_of_a_loop(one):
    assert [round(float(one.least_sure(torch.tensor([label]))), 12) for label in range(3)] == [0.2, 0.1, 0.1]
