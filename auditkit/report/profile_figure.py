"""Draw values along named places, such as the layers of a network from input to output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from auditkit.report.drawing import FONT_SIZE, Frame, draw, dress, marked, style_of
from auditkit.report.log_axis import log_axis
from auditkit.report.profiles import profile_words
from auditkit.report.text import clean, number_text
from auditkit.result import ProfileRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["axis_names", "draw_profile"]

_NAMED_PLACES, _NAME_CHARACTERS = 24, 18
_NUMBERS = 10
_AXES_HEIGHT, _ABOVE, _BELOW, _BELOW_A_CHARACTER = 238, 9, 50, 5.3


def draw_profile(profile: ProfileRecord, prefix: str) -> str:
    """Return the profile as an inline SVG element whose ids begin with `prefix`."""
    names = axis_names(profile)

    def paint(axes: Axes) -> None:
        lines = [[math.nan if value is None else value for value in values] for values in profile.lines.values()]
        dress(axes, profile.x_label, profile.y_label)
        _draw_lines(axes, _placed(axes, lines, logarithmic=profile.logarithmic))
        _name_places(axes, len(profile.places), names)

    return draw(
        paint,
        prefix=prefix,
        title=profile.title,
        description=profile_words(profile),
        frame=_frame(names),
    )


def axis_names(profile: ProfileRecord) -> list[str] | None:
    """Return what the axis calls the places; None where it has no room for names, or would show two as one."""
    if len(profile.places) > _NAMED_PLACES:
        return None
    parts = [clean(name).split(".") for name in profile.places]
    names = [_shortened(".".join(part[_shared(parts) :])) for part in parts]
    return names if len(set(names)) == len(names) else None


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """Return how many parts at the beginning all names have alike, but for their last."""
    levels = zip(*(part[:-1] for part in parts), strict=False) if len(parts) > 1 else ()
    return sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))


def _shortened(name: str) -> str:
    """Return the name, without its middle where it is long: layers differ at both ends."""
    if len(name) <= _NAME_CHARACTERS:
        return name
    head = _NAME_CHARACTERS // 2 - 1
    return f"{name[:head]}…{name[head + 1 - _NAME_CHARACTERS :]}"


def _frame(names: Sequence[str] | None) -> Frame:
    """Return a figure with room for the longest name below its axes."""
    if names is None:
        return Frame()
    below = _BELOW + _BELOW_A_CHARACTER * max(map(len, names), default=0)
    height = _ABOVE + _AXES_HEIGHT + below
    return Frame(height=height, bottom=below / height, top=1 - _ABOVE / height)


def _placed(axes: Axes, lines: Sequence[Sequence[float]], *, logarithmic: bool) -> list[list[float]]:
    """Prepare the upright axis for the values; return where on it each of them lies."""
    values = [value for line in lines for value in line]
    if logarithmic:
        axis = log_axis(values)
        axes.set_ylim(axis.low, axis.high)
        axes.set_yticks(list(axis.ticks), list(axis.ticks.values()))
        return [[axis.place(value) for value in line] for line in lines]
    known = [value for value in values if not math.isnan(value)] or [0.0]
    low, high = min(0.0, *known), max(0.0, *known)
    margin = 0.04 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.yaxis.set_major_formatter(lambda value, _: number_text(value))
    return [list(line) for line in lines]


def _draw_lines(axes: Axes, lines: Sequence[Sequence[float]]) -> None:
    for number, values in enumerate(lines):
        style = style_of(number)
        axes.plot(
            range(1, len(values) + 1),
            values,
            color=style.colour,
            marker=style.marker,
            markersize=6,
            markevery=marked(values, number),
            linestyle=style.linestyle,
            linewidth=2,
        )


def _name_places(axes: Axes, count: int, names: Sequence[str] | None) -> None:
    margin = 0.6 + 0.02 * count
    axes.set_xlim(1 - margin, max(count, 1) + margin)
    if names is None:
        axes.set_xticks(_numbers(count))
        return
    axes.set_xticks(range(1, count + 1), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=FONT_SIZE - 2)


def _numbers(count: int) -> list[int]:
    """Return the first and the last number, and round ones between that leave room for both."""
    step = next(step for step in (1, 2, 5, 10, 20, 25, 50, *range(100, count + 100, 100)) if count / step <= _NUMBERS)
    return sorted({1, *range(step, count - step // 2, step), count})
