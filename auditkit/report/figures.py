"""Draw charts with matplotlib as SVG that stands in any page, on light and on dark."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditkit.report.curves import Chart, Series
from auditkit.report.svg import INK, inline_svg
from auditkit.report.text import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_chart", "swatch"]

_WIDTH, _HEIGHT = 520, 300
_FONT_SIZE = 13.0
# Fixed, for a layout that fits itself to its labels would follow the fonts of the machine.
_AXES = (0.13, 0.175, 0.86, 0.795)
_TICK_DISTANCE = 0.16
_TICK_CHARACTERS, _LABEL_CHARACTERS = 12, 36
_DRAWN_SECTIONS = r"^(axes|figure|font|grid|legend|lines|patch|path|savefig|svg|text|xaxis|xtick|yaxis|ytick)\."


@dataclass(frozen=True)
class _Style:
    """How a line is told from the others: colour, marker and dash, so that colour is never alone."""

    colour: str
    marker: str
    dash: tuple[float, ...]
    marker_path: str


# Each colour keeps a contrast of 3:1 or more on white as on the dark background.
_STYLES = (
    _Style("#2f7fd6", "o", (), "M9 6a4 4 0 1 1 8 0a4 4 0 1 1-8 0z"),
    _Style("#cf6a1b", "s", (6, 2), "M9.5 2.5h7v7h-7z"),
    _Style("#23976a", "^", (2, 2), "M13 1.5l4.5 8h-9z"),
    _Style("#9d5fc9", "D", (8, 2, 2, 2), "M13 1.5l4.5 4.5-4.5 4.5-4.5-4.5z"),
    _Style("#cf4f78", "v", (4, 1), "M13 10.5l4.5-8h-9z"),
    _Style("#7d8790", "P", (1, 1), "M11.5 2h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z"),
)


def draw_chart(chart: Chart, prefix: str, *, bands: bool) -> str:
    """Return the chart as an inline SVG element whose ids begin with `prefix`; bands show intervals."""
    from matplotlib.figure import Figure

    with _settings(prefix):
        figure = Figure(figsize=(_WIDTH / 72, _HEIGHT / 72))
        axes = figure.add_axes(_AXES)
        for series in chart.series:
            _draw_series(axes, series, band=bands)
        _dress(axes, chart)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return inline_svg(text.getvalue(), prefix=prefix, title=clean(chart.title), description=clean(chart.description))


def swatch(series: Series) -> str:
    """Return a small inline SVG of how a line is drawn, for a legend."""
    style = _style(series)
    dash = f' stroke-dasharray="{" ".join(f"{length:g}" for length in style.dash)}"' if style.dash else ""
    return (
        f'<svg class="swatch" width="26" height="12" viewBox="0 0 26 12" aria-hidden="true">'
        f'<path d="M0 6h26" fill="none" stroke="{style.colour}" stroke-width="2"{dash}/>'
        f'<path d="{style.marker_path}" fill="{style.colour}"/></svg>'
    )


@contextmanager
def _settings(salt: str) -> Iterator[None]:
    """Draw with matplotlib's own defaults, whatever the user's matplotlibrc says, and leave no trace."""
    import matplotlib

    settings: dict[Any, Any] = dict(matplotlib.rcParamsDefault.find_all(_DRAWN_SECTIONS))
    settings |= {
        "svg.hashsalt": salt,
        "svg.fonttype": "none",
        "font.size": _FONT_SIZE,
        "text.parse_math": False,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # The reader's fonts show the text; matplotlib's only measures it.
        warnings.filterwarnings("ignore", message=r".*Glyph \d+")
        yield


def _style(series: Series) -> _Style:
    return _STYLES[series.style % len(_STYLES)]


def _draw_series(axes: Axes, series: Series, *, band: bool) -> None:
    style = _style(series)
    x = [point.x for point in series.points]
    estimates = [point.estimate for point in series.points]
    low, high = [e.low for e in estimates], [e.high for e in estimates]
    if band and len(x) > 1:
        axes.fill_between(x, low, high, color=style.colour, alpha=0.16, linewidth=0)
    axes.vlines(x, low, high, color=style.colour, linewidth=1.4, alpha=0.75)
    linestyle = (0, style.dash) if style.dash else "solid"
    axes.plot(
        x,
        [e.value for e in estimates],
        color=style.colour,
        marker=style.marker,
        markersize=6.5,
        linestyle=linestyle,
        linewidth=2,
    )


def _dress(axes: Axes, chart: Chart) -> None:
    axes.set_xlabel(_short(chart.x_label, _LABEL_CHARACTERS))
    axes.set_ylabel(_short(chart.y_label, _LABEL_CHARACTERS))
    ticks = _spread({point.x: point.label for series in chart.series for point in series.points})
    axes.set_xticks(list(ticks), [_short(label, _TICK_CHARACTERS) for label in ticks.values()])
    axes.grid(axis="y", color=INK, alpha=0.14, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_alpha(0.5)
    if chart.share:
        axes.set_ylim(-0.03, 1.03)
        axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1], [f"{share} %" for share in range(0, 101, 20)])
    if chart.chance is not None:
        _draw_chance(axes, chart.chance)


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
        fontsize=_FONT_SIZE - 2,
        alpha=0.8,
    )


def _short(text: str, characters: int) -> str:
    text = clean(text)
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _spread(labels: dict[float, str]) -> dict[float, str]:
    """Leave out labels that would overlap: the largest budget's stays, then each that has room beside it."""
    places = sorted(labels, reverse=True)
    room = (places[0] - places[-1]) * _TICK_DISTANCE if places else 0.0
    kept: list[float] = []
    for place in places:
        if not kept or kept[-1] - place >= room:
            kept.append(place)
    return {place: labels[place] for place in reversed(kept)}
