"""A logarithmic axis that has a place for zero."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from auditkit.report.text import number_text

__all__ = ["LogAxis", "log_axis"]

_MOST_TICKS, _FEW_DECADES = 6, 3
_MARGIN = 0.06
_DEPTH = 0.12
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class LogAxis:
    """Where an axis of decimal logarithms begins and ends, its ticks, and where it shows what has no logarithm."""

    low: float
    high: float
    ticks: dict[float, str]
    bottom: float

    def place(self, value: float) -> float:
        """Return where a value is drawn: zero, and what lies below it, at the bottom; NaN nowhere."""
        return value if math.isnan(value) else math.log10(value) if value > 0 else self.bottom


def log_axis(values: Iterable[float]) -> LogAxis:
    """Return the axis for some values; NaN counts for none."""
    known = [value for value in values if not math.isnan(value)]
    logarithms = [math.log10(value) for value in known if value > 0] or [0.0]
    low, high = min(logarithms), max(logarithms)
    span = max(high - low, 0.5)
    bottom = low - _DEPTH * span
    ticks = _decades(low, high) if span > _FEW_DECADES else _within_decades(low, high)
    if any(value <= 0 for value in known):
        ticks = {bottom: "0" if all(value >= 0 for value in known) else "≤ 0"} | ticks
        low = bottom
    return LogAxis(low - _MARGIN * span, high + _MARGIN * span, ticks, bottom)


def _decades(low: float, high: float) -> dict[float, str]:
    first, last = math.ceil(low), math.floor(high)
    exponents = range(first, last + 1, math.ceil((last - first + 1) / _MOST_TICKS))
    plain = all(-4 <= exponent <= 4 for exponent in exponents)
    return {float(k): number_text(10.0**k) if plain else f"10{str(k).translate(_SUPERSCRIPTS)}" for k in exponents}


def _within_decades(low: float, high: float) -> dict[float, str]:
    """Return 1, 2 and 5 times the powers of ten that lie between, or the two ends where fewer than two do."""
    candidates = [(k + math.log10(m), k, m) for k in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
    inside = {place: float(f"{m}e{k}") for place, k, m in candidates if low <= place <= high}
    ends = {place: 10.0**place for place in (low, high)}
    return {place: number_text(value) for place, value in (inside if len(inside) > 1 else ends).items()}
