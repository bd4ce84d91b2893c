"""The looks that all figures share, drawn with matplotlib as SVG that stands in any page, on light and on dark."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditkit.report.svg import INK, inline_svg
from auditkit.report.text import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["FONT_SIZE", "Frame", "Style", "draw", "dress", "marked", "shortened", "style_of", "swatch"]

FONT_SIZE = 13.0
_LABEL_CHARACTERS = 36
_MARKERS = 8
_DRAWN_SECTIONS = r"^(axes|figure|font|grid|legend|lines|patch|path|savefig|svg|text|xaxis|xtick|yaxis|ytick)\."


@dataclass(frozen=True)
class Style:
    """How a line is told from the others: colour, marker and dash, so that colour is never alone."""

    colour: str
    marker: str
    dash: tuple[float, ...]
    marker_path: str

    @property
    def linestyle(self) -> Any:
        """The dash as matplotlib wants it."""
        return (0, self.dash) if self.dash else "solid"


# Each colour keeps a contrast of 3:1 or more on white as on the dark background.
_STYLES = (
    Style("#2f7fd6", "o", (), "M9 6a4 4 0 1 1 8 0a4 4 0 1 1-8 0z"),
    Style("#cf6a1b", "s", (6, 2), "M9.5 2.5h7v7h-7z"),
    Style("#23976a", "^", (2, 2), "M13 1.5l4.5 8h-9z"),
    Style("#9d5fc9", "D", (8, 2, 2, 2), "M13 1.5l4.5 4.5-4.5 4.5-4.5-4.5z"),
    Style("#cf4f78", "v", (4, 1), "M13 10.5l4.5-8h-9z"),
    Style("#7d8790", "P", (1, 1), "M11.5 2h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z"),
)


def style_of(number: int) -> Style:
    """Return the looks of a line; from the seventh on they repeat."""
    return _STYLES[number % len(_STYLES)]


def swatch(number: int) -> str:
    """Return a small inline SVG of how a line is drawn, for a legend."""
    style = style_of(number)
    dash = f' stroke-dasharray="{" ".join(f"{length:g}" for length in style.dash)}"' if style.dash else ""
    return (
        f'<svg class="swatch" width="26" height="12" viewBox="0 0 26 12" aria-hidden="true">'
        f'<path d="M0 6h26" fill="none" stroke="{style.colour}" stroke-width="2"{dash}/>'
        f'<path d="{style.marker_path}" fill="{style.colour}"/></svg>'
    )


@dataclass(frozen=True)
class Frame:
    """The size of a figure, and where its axes lie in it, as shares.

    Fixed, for a layout that fits itself to its labels would follow the fonts of the machine.
    """

    width: float = 520
    height: float = 300
    left: float = 0.13
    bottom: float = 0.175
    right: float = 0.99
    top: float = 0.97


def draw(
    paint: Callable[[Axes], None], *, prefix: str, title: str, description: str, frame: Frame | None = None
) -> str:
    """Return what `paint` draws as an inline SVG element whose ids begin with `prefix`."""
    from matplotlib.figure import Figure

    frame = frame or Frame()
    with _settings(prefix):
        figure = Figure(figsize=(frame.width / 72, frame.height / 72))
        paint(figure.add_axes((frame.left, frame.bottom, frame.right - frame.left, frame.top - frame.bottom)))
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return inline_svg(text.getvalue(), prefix=prefix, title=clean(title), description=clean(description))


@contextmanager
def _settings(salt: str) -> Iterator[None]:
    """Draw with matplotlib's own defaults, whatever the user's matplotlibrc says, and leave no trace."""
    import matplotlib

    settings: dict[Any, Any] = dict(matplotlib.rcParamsDefault.find_all(_DRAWN_SECTIONS))
    settings |= {
        "svg.hashsalt": salt,
        "svg.fonttype": "none",
        "font.size": FONT_SIZE,
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


def dress(axes: Axes, x_label: str, y_label: str) -> None:
    """Name the axes, and leave of grid and frame only what helps to read a value."""
    axes.set_xlabel(shortened(x_label, _LABEL_CHARACTERS))
    axes.set_ylabel(shortened(y_label, _LABEL_CHARACTERS))
    axes.grid(axis="y", color=INK, alpha=0.14, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_alpha(0.5)


def marked(values: Sequence[float], number: int) -> list[int]:
    """Return which points of a line get a marker: all of a dozen, about eight of more, and those that stand alone.

    Lines with other numbers get them at other places, so that one does not hide those of the next.
    """
    step = max(1, math.ceil(len(values) / _MARKERS)) if len(values) > 12 else 1
    missing = [True, *map(math.isnan, values), True]
    alone = [at for at in range(len(values)) if missing[at] and missing[at + 2]]
    return sorted({*range((number * 2) % step, len(values), step), *alone})


def shortened(text: str, characters: int) -> str:
    """Return the text without what XML cannot hold, cut to a number of characters."""
    text = clean(text)
    return text if len(text) <= characters else text[: characters - 1] + "…"
