"""A row's bits depend neither on its neighbours nor on its place, whatever kernels a network ends up with."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from auditkit.models.base import Batching
from auditkit.models.batching import find_batching
from auditkit.testing import toy_model


def top_score(logits):
    return logits.amax(1)


def assert_independent(compute, images):
    wanted = compute(images)
    for shift in (1, 2, 3):
        assert torch.equal(compute(images.roll(shift, 0)).roll(-shift, 0), wanted)
    assert torch.equal(torch.cat([compute(images[at : at + 1]) for at in range(len(images))]), wanted)


@pytest.mark.parametrize("hidden", [None, 2, 6, 7, 8])
@given(height=st.integers(1, 7), width=st.integers(1, 11))
def test_rows_of_any_length_are_independent(hidden, height, width):
    torch.manual_seed(height * width)
    sizes = (height * width, 4) if hidden is None else (height * width, hidden, 4)
    layers = [nn.Linear(*pair) for pair in pairwise(sizes)]
    images = torch.rand(11, 1, height, width)
    model = toy_model(nn.Sequential(nn.Flatten(), *layers), images)
    assert_independent(model.logits, images)
    assert_independent(model.exact.logits, images)
    assert_independent(lambda rows: model.exact.gradient(rows, top_score)[1], images)


def test_a_gradient_that_is_constant_does_not_speak_for_the_scores():
    """That of a linear layer is the same wherever the row lies; its scores are not."""
    images = torch.rand(32, 1, 5, 11)
    model = toy_model(nn.Sequential(nn.Flatten(), nn.Linear(55, 10)), images)
    assert_independent(model.exact.logits, images)


def test_what_refuses_a_batch_gets_one_row_at_a_time():
    def compute(rows):
        if len(rows) > 1:
            raise ValueError("one at a time")
        return rows.flatten(1)

    assert find_batching(compute, torch.rand(5, 1, 2, 2), 128) == Batching(minimum=1, fixed=1)


@pytest.mark.parametrize(
    ("places", "wanted"),
    [(1, Batching()), (2, Batching(copies=2)), (4, Batching(copies=4)), (8, Batching(minimum=1, fixed=1))],
)
def test_rows_are_computed_as_often_as_there_are_places(places, wanted):
    def compute(rows):
        return rows.flatten(1) * (1 + torch.arange(len(rows)) % places).unsqueeze(1)

    assert find_batching(compute, torch.rand(5, 1, 2, 2), 128) == wanted


def test_what_depends_on_the_size_of_the_batch_gets_one_size():
    assert find_batching(lambda rows: rows.flatten(1) * len(rows), torch.rand(5, 1, 2, 2), 128) == Batching(fixed=32)


@given(
    rows=st.integers(1, 40),
    minimum=st.sampled_from([1, 4, 16]),
    copies=st.sampled_from([1, 2, 4]),
    fixed=st.sampled_from([None, 32, 40 * 4]),
)
def test_what_is_picked_is_what_was_filled_in(rows, minimum, copies, fixed):
    batching = Batching(minimum, fixed, copies)
    some = torch.arange(min(rows, batching.chunk(rows))).unsqueeze(1)
    filled = batching.fill(some)
    assert len(filled) == batching.padded(len(some))
    assert torch.equal(batching.pick(filled, len(some)), some)
