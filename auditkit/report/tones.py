"""The tones of boxes on pictures: how each looks, with colour and without, and what it is called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from auditkit.result import MarkRecord

__all__ = ["TONES", "Tone", "counted_tones", "tone_swatch", "tones_among"]


@dataclass(frozen=True)
class Tone:
    """How a box is drawn, told apart by its line alone, and what stands in legend and alternative text."""

    colour: str
    word: str
    meaning: str
    several: str = ""
    """The word for more than one, where it is another."""
    dash: tuple[int, ...] = ()
    """Lengths of strokes and gaps, in widths of the line; empty: drawn through."""
    crossed: bool = False
    double: bool = False


# All of them light, for lines have a dark rim and labels dark letters; of Okabe and Ito 2008, for the colour-blind.
TONES: Mapping[str, Tone] = MappingProxyType(
    {
        "object": Tone("#ffffff", "annotated", "annotated", dash=(6, 2, 1, 2)),
        "found": Tone("#56b4e9", "found", "found"),
        "wrong": Tone("#e69f00", "wrong", "wrong: nothing of this class is there", dash=(4, 2)),
        "lost": Tone("#f0e442", "missed", "missed: there, but not found", dash=(1, 1), crossed=True),
        "patch": Tone("#f0a3cc", "patch", "patch", "patches", double=True),
    }
)
"""By the name that marks give, in the order of legends."""


def tones_among(marks: Iterable[MarkRecord]) -> tuple[str, ...]:
    """Return the tones that occur, in the order of legends."""
    found = {mark.tone for mark in marks}
    return tuple(name for name in TONES if name in found)


def counted_tones(marks: Sequence[MarkRecord]) -> str:
    """Return how many boxes of each tone there are, such as `2 found, 1 missed`."""
    counts = ((sum(mark.tone == name for mark in marks), tone) for name, tone in TONES.items())
    texts = (f"{count} {tone.several or tone.word if count > 1 else tone.word}" for count, tone in counts if count)
    return ", ".join(texts) or "no boxes"


def tone_swatch(name: str) -> str:
    """Return a small inline SVG of how boxes of a tone are drawn, for a legend."""
    tone = TONES[name]
    dash = f' stroke-dasharray="{" ".join(f"{2 * length}" for length in tone.dash)}"' if tone.dash else ""
    box = "M4 3.5h18v11h-18z"
    inner = "M8 7.5h10v3h-10z" if tone.double else "M10 6l6 6m0-6l-6 6" if tone.crossed else ""
    lines: list[tuple[str, str, float, str]] = [(box, "#000", 3.5, ""), (box, tone.colour, 2, dash)]
    if inner:
        lines += [(inner, "#000", 3, ""), (inner, tone.colour, 1.5, "")]
    paths = "".join(
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'
        for path, colour, width, dashed in lines
    )
    return f'<svg class="swatch" width="26" height="18" viewBox="0 0 26 18" aria-hidden="true">{paths}</svg>'
