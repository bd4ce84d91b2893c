"""Draw charts of metrics over budgets, and of hits over false alarms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from auditkit.report.curves import Chart, Series
from auditkit.report.drawing import FONT_SIZE, draw, dress, marked, shortened, style_of
from auditkit.report.svg import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_chart"]

_TICK_DISTANCE = 0.16
_TICK_CHARACTERS = 12
_PER_CENT = {share / 5: f"{20 * share} %" for share in range(6)}


def draw_chart(chart: Chart, prefix: str, *, bands: bool) -> str:
    """Return the chart as an inline SVG element whose ids begin with `prefix`; intervals show as bands if they fit."""

    def paint(axes: Axes) -> None:
        for series in chart.series:
            _draw_series(axes, series, band=bands and chart.bands, strokes=not chart.roc)
        dress(axes, chart.x_label, chart.y_label)
        _place_ticks(axes, chart)
        if chart.roc:
            _draw_diagonal(axes)
        if chart.chance is not None:
            _draw_chance(axes, chart.chance)

    return draw(paint, prefix=prefix, title=chart.title, description=chart.description)


def _draw_series(axes: Axes, series: Series, *, band: bool, strokes: bool) -> None:
    style = style_of(series.style)
    # Arrays, for of a list matplotlib asks at length whether it is a tensor.
    x = np.array([point.x for point in series.points])
    estimates = [point.estimate for point in series.points]
    low, high = np.array([e.low for e in estimates]), np.array([e.high for e in estimates])
    if band and len(x) > 1:
        axes.fill_between(x, low, high, color=style.colour, alpha=0.16, linewidth=0)
    if strokes:
        axes.vlines(x, low, high, color=style.colour, linewidth=1.4, alpha=0.75)
    values = [e.value for e in estimates]
    axes.plot(
        x,
        np.array(values),
        color=style.colour,
        marker=style.marker,
        markersize=6.5,
        markevery=marked(values, series.style),
        linestyle=style.linestyle,
        linewidth=2,
    )


def _place_ticks(axes: Axes, chart: Chart) -> None:
    if chart.share:
        axes.set_ylim(-0.03, 1.03)
        axes.set_yticks(list(_PER_CENT), list(_PER_CENT.values()))
    if chart.roc:
        axes.set_xlim(-0.03, 1.03)
        ticks = _PER_CENT
    else:
        ticks = _spread({point.x: point.label for series in chart.series for point in series.points})
    axes.set_xticks(list(ticks), [shortened(label, _TICK_CHARACTERS) for label in ticks.values()])


def _draw_diagonal(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=INK, alpha=0.6, linewidth=1, dashes=(4, 3))
    axes.annotate(
        "chance",
        (0.62, 0.62),
        xytext=(8, -2),
        textcoords="offset points",
        ha="left",
        va="top",
        fontsize=FONT_SIZE - 2,
        alpha=0.8,
    )


def _draw_chance(axes: Axes, chance: float) -> None:
    axes.axhline(chance, color=INK, alpha=0.6, linewidth=1, dashes=(4, 3))
    axes.annotate(
        f"chance, {chance * 100:.3g} %",
        (0.008, chance),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=FONT_SIZE - 2,
        alpha=0.8,
    )


def _spread(labels: dict[float, str]) -> dict[float, str]:
    """Leave out labels that would overlap: the largest budget's stays, then each that has room beside it."""
    places = sorted(labels, reverse=True)
    room = (places[0] - places[-1]) * _TICK_DISTANCE if places else 0.0
    kept: list[float] = []
    for place in places:
        if not kept or kept[-1] - place >= room:
            kept.append(place)
    return {place: labels[place] for place in reversed(kept)}
