"""Perturbation budgets as the field writes them: `8/255` or `0.5`, stored as floats, printed both ways."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator

__all__ = ["Budgets", "budget_text", "parse_budget"]

_LARGEST_GREY_LEVEL = 255


def parse_budget(text: str | float) -> float:
    """Return the number that `text` (`"8/255"`, `"0.5"` or a number) stands for.

    Raises:
        ValueError: `text` is neither a number nor a fraction of two numbers, or it is negative or not finite.
    """
    if isinstance(text, str):
        numerator, slash, denominator = text.partition("/")
        try:
            value = float(numerator) / (float(denominator) if slash else 1.0)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"a budget is a number or a fraction such as 8/255, not {text!r}") from None
    else:
        value = float(text)
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"a budget is finite and not negative, not {text!r}")
    return value


def budget_text(value: float) -> str:
    """Return `value` as a fraction of 255 where it is one and no short decimal, else as a decimal.

    What is read from the text is `value` itself: two budgets never share a text.
    """
    short = f"{value:g}"
    if value == round(value, 2) and float(short) == value:
        return short
    in_quarters = round(value * _LARGEST_GREY_LEVEL * 4) / 4
    if 0 < value < 1 and in_quarters / _LARGEST_GREY_LEVEL == value:
        return f"{in_quarters:g}/{_LARGEST_GREY_LEVEL}"
    return short if float(short) == value else repr(value)


def _sorted_budgets(value: object) -> tuple[float, ...]:
    parts: list[object]
    if isinstance(value, str):
        parts = [part for part in value.replace(",", " ").split() if part]
    elif isinstance(value, list | tuple):
        parts = list(value)
    else:
        parts = [value]
    if not parts:
        raise ValueError("at least one budget is needed")
    budgets = {parse_budget(part) for part in parts if isinstance(part, str | int | float)}
    if len(budgets) != len(parts):
        raise ValueError("budgets are different numbers or fractions such as 2/255, 8/255")
    return tuple(sorted(budgets))


Budgets = Annotated[tuple[float, ...], BeforeValidator(_sorted_budgets)]
"""One or several budgets, smallest first; accepts `"2/255, 8/255"`, a number, or a list of either."""
