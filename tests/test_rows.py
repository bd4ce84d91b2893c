"""Rows of states: taking and joining them loses and mixes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from auditkit.rows import concatenate_rows, count_rows, take_rows


@dataclass(frozen=True)
class Inner:
    step: Tensor


@dataclass(frozen=True)
class State:
    images: Tensor
    inner: Inner


@dataclass(frozen=True)
class Odd:
    images: Tensor
    eps: float


def state(rows, offset=0):
    numbers = torch.arange(rows) + offset
    return State(numbers.view(-1, 1).float().repeat(1, 3), Inner(numbers))


def test_taken_rows_are_copies_in_the_order_asked_for():
    whole = state(5)
    part = take_rows(whole, torch.tensor([4, 0, 4]))
    assert part.inner.step.tolist() == [4, 0, 4]
    assert part.images[:, 0].tolist() == [4, 0, 4]
    part.images.zero_()
    assert whole.images[4, 0] == 4


def test_joined_states_keep_their_order_and_come_apart_again():
    joined = concatenate_rows([state(2), state(1, 10), state(2, 20)])
    assert joined.inner.step.tolist() == [0, 1, 10, 20, 21]
    assert count_rows(joined) == 5
    assert torch.equal(take_rows(joined, torch.arange(3, 5)).images, state(2, 20).images)


def test_a_state_of_no_rows_is_a_state():
    assert count_rows(state(0)) == 0


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (State(torch.zeros(3, 2), Inner(torch.zeros(2))), r"one row a sample; State has \[2, 3\] rows"),
        (State(torch.zeros(3, 2), Inner(torch.tensor(0))), "one row a sample"),
        (Odd(torch.zeros(3), 0.5), "holds a float"),
        ({"images": torch.zeros(3)}, "holds a dict"),
        (State, "holds a type"),
    ],
)
def test_what_is_no_state_is_refused_in_words(broken, words):
    with pytest.raises(TypeError, match=words):
        count_rows(broken)


def test_states_of_two_kinds_are_not_joined():
    with pytest.raises(TypeError, match="one kind of state; got Inner and State"):
        concatenate_rows([state(2), Inner(torch.zeros(2))])
