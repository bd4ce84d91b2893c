"""Budgets: read as the field writes them, printed so that reading gives the same number."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from auditkit.budgets import Budgets, budget_text, parse_budget

BUDGETS = TypeAdapter(Budgets)


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), ("0.5", 0.5), (" 0.5 / 255 ", 0.5 / 255), ("3", 3.0), ("0", 0.0), (2, 2.0)],
)
def test_numbers_and_fractions_are_read(text, value):
    assert parse_budget(text) == value


@pytest.mark.parametrize(
    "text", ["", "eps", "1/0", "8/", "/255", "8/255/2", "-1", "nan", "inf", "8:255", float("nan"), -0.5]
)
def test_anything_else_is_refused_in_words(text):
    with pytest.raises(ValueError, match="a budget is"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8 / 255, "8/255"),
        (0.25 / 255, "0.25/255"),
        (128 / 255, "128/255"),
        (0.5, "0.5"),
        (1.0, "1"),
        (16.0, "16"),
        (0.0, "0"),
        (0.001, "0.001"),
    ],
)
def test_a_budget_is_printed_as_the_field_writes_it(value, text):
    assert budget_text(value) == text


@given(st.floats(0, 1e6, allow_subnormal=False))
@example(0.1234567)
@example(8 / 255 * (1 + 1e-8))
@example(0.5 * (1 + 1e-12))
def test_reading_what_was_printed_gives_the_same_number(value):
    assert parse_budget(budget_text(value)) == value


@given(st.integers(1, 4 * 255 - 1))
def test_quarters_of_grey_levels_are_fractions_unless_a_short_decimal_says_the_same(quarters):
    text = budget_text(quarters / 4 / 255)
    assert text.endswith("/255") or len(text) <= 4
    assert parse_budget(text) == quarters / 4 / 255


@pytest.mark.parametrize(
    "given_", ["8/255, 2/255", "8/255 2/255", ["8/255", 2 / 255], (8 / 255, "2/255"), [8 / 255, 2 / 255]]
)
def test_several_budgets_are_sorted(given_):
    assert BUDGETS.validate_python(given_) == (2 / 255, 8 / 255)


def test_one_number_is_one_budget():
    assert BUDGETS.validate_python(1) == (1.0,)


@pytest.mark.parametrize("given_", ["", [], "2/255, 2/255", [None], "2/255, x", [-1], None])
def test_no_budget_a_repeated_one_or_nonsense_is_refused(given_):
    with pytest.raises(ValidationError):
        BUDGETS.validate_python(given_)
