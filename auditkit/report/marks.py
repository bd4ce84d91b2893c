"""Draw boxes and their labels on a picture."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageColor, ImageDraw, ImageFont

from auditkit.report.drawing import shortened
from auditkit.report.tones import TONES, tones_among
from auditkit.result import MarkRecord

__all__ = ["FIRST_SCREEN_PEN", "GALLERY_PEN", "Pen", "draw_marks"]

_INK = "#000000"
_PHOTO_COLOURS = 216
_LABEL_CHARACTERS = 28
_READ_CHARACTERS = 200
_LEAST_SIDE = 3

Colour = tuple[int, ...]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Pen:
    """Sizes in pixels of the drawn picture: its longer side, lines, letters; and how many labels it has room for."""

    side: int
    line: int
    letters: int
    most_labels: int


GALLERY_PEN = Pen(side=320, line=2, letters=11, most_labels=12)
FIRST_SCREEN_PEN = Pen(side=320, line=4, letters=22, most_labels=3)
"""For a picture that is shown at half its size."""


def draw_marks(image: Image.Image, marks: Sequence[MarkRecord], pen: Pen) -> Image.Image:
    """Return the picture, in at most 256 colours, with a box a mark, small ones on top, and labels of the largest.

    A label goes beside or into its box, inside the picture, to where no other is; without such a place it is left out.
    """
    photo = image.convert("RGB")
    drawn = photo.copy()
    brush = ImageDraw.Draw(drawn)
    boxes = [(_box_of(mark, photo.size), mark) for mark in marks]
    boxes.sort(key=lambda item: -_area(item[0]))
    for box, mark in boxes:
        _draw_box(brush, box, mark.tone, pen)
    font = ImageFont.load_default(pen.letters)
    taken: list[Box] = []
    for box, mark in boxes[: pen.most_labels]:
        _draw_label(brush, box, mark, font, photo.size, taken)
    return _in_few_colours(photo, drawn, tones_among(marks))


def _box_of(mark: MarkRecord, size: tuple[int, int]) -> Box:
    """Return the edges in pixels, inside the picture, of a box that is at least a few pixels wide and high."""
    (left, right), (top, bottom) = (
        _edges(start, end, length)
        for start, end, length in ((mark.left, mark.right, size[0]), (mark.top, mark.bottom, size[1]))
    )
    return left, top, right, bottom


def _edges(start: float, end: float, length: int) -> tuple[int, int]:
    first, last = (round(min(max(edge, 0.0), 1.0) * (length - 1)) for edge in sorted((start, end)))
    first = max(min(first, length - 1 - _LEAST_SIDE), 0)
    return first, min(max(last, first + _LEAST_SIDE), length - 1)


def _area(box: Box) -> int:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


def _draw_box(brush: ImageDraw.ImageDraw, box: Box, name: str, pen: Pen) -> None:
    tone, (left, top, right, bottom) = TONES[name], box
    frames = [box]
    step = 2 * pen.line + 1
    if tone.double and min(right - left, bottom - top) > 4 * step:
        frames.append((left + step, top + step, right - step, bottom - step))
    for frame in frames:
        brush.rectangle((frame[0] - 1, frame[1] - 1, frame[2] + 1, frame[3] + 1), outline=_INK, width=pen.line + 1)
        for stroke in _strokes(frame, tone.dash, pen.line):
            brush.rectangle(stroke, fill=tone.colour)
    if tone.crossed:
        x, y, arm = (left + right) // 2, (top + bottom) // 2, min(right - left, bottom - top, 10 * pen.line) // 4
        for colour, width in ((_INK, pen.line + 2), (tone.colour, pen.line)):
            brush.line((x - arm, y - arm, x + arm, y + arm), fill=colour, width=width)
            brush.line((x - arm, y + arm, x + arm, y - arm), fill=colour, width=width)


def _strokes(box: Box, dash: Sequence[int], line: int) -> Iterator[Box]:
    """Yield the strokes of the four sides as filled rectangles of the width of the line."""
    left, top, right, bottom = box
    thick = line - 1
    for start, end in _pieces(left, right, dash, line):
        yield start, top, end, min(top + thick, bottom)
        yield start, max(bottom - thick, top), end, bottom
    for start, end in _pieces(top, bottom, dash, line):
        yield left, start, min(left + thick, right), end
        yield max(right - thick, left), start, right, end


def _pieces(start: int, end: int, dash: Sequence[int], line: int) -> Iterator[tuple[int, int]]:
    if not dash:
        yield start, end
        return
    at, number = start, 0
    while at <= end:
        length = line * dash[number % len(dash)]
        if number % 2 == 0:
            yield at, min(at + length - 1, end)
        at, number = at + length, number + 1


def _draw_label(
    brush: ImageDraw.ImageDraw,
    box: Box,
    mark: MarkRecord,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
    taken: list[Box],
) -> None:
    text = _fitted(mark.text, font, size[0] - 4)
    if not text:
        return
    ascent, height = _line_of(font)
    width = round(font.getlength(text)) + 4
    for left, top in _places(box, width, height, size):
        place = (left, top, left + width - 1, top + height - 1)
        if not any(_overlap(place, other) for other in taken):
            taken.append(place)
            brush.rectangle(place, fill=TONES[mark.tone].colour)
            brush.text((left + 2, top + 1 - ascent), text, fill=_INK, font=font)
            return


def _line_of(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> tuple[int, int]:
    """Return how far below its origin a line of text begins, and how high a label for it is."""
    _, top, _, bottom = font.getbbox("Hg|")
    return int(top), int(bottom - top) + 3


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Return the text in one line, without accents, which the font lacks, and cut to a width in pixels."""
    plain = unicodedata.normalize("NFKD", text[:_READ_CHARACTERS])
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    plain = " ".join(shortened(" ".join(plain.split()), _LABEL_CHARACTERS).split())
    while plain and font.getlength(plain) > width:
        plain = plain[:-2] + "…" if len(plain) > 2 else ""
    return plain


def _places(box: Box, width: int, height: int, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield left and top of a label at the corners of a box, outside before inside, moved into the picture."""
    left, top, right, bottom = box
    for y in (top - height, top, bottom - height + 1, bottom + 1):
        for x in (left - 1, right - width + 2):
            yield min(max(x, 0), size[0] - width), min(max(y, 0), size[1] - height)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _in_few_colours(photo: Image.Image, drawn: Image.Image, tones: Sequence[str]) -> Image.Image:
    """Return the drawn picture in colours chosen for the photo, plus those of the marks: a third of the bytes."""
    # Every third pixel and row shows which colours there are, in a tenth of the time.
    thinned = photo.resize((max(photo.width // 3, 1), max(photo.height // 3, 1)), Image.Resampling.NEAREST)
    chosen = thinned.quantize(_PHOTO_COLOURS, method=Image.Quantize.MEDIANCUT).getpalette()
    colours: list[Colour] = [ImageColor.getrgb(_INK)]
    for name in tones:
        full = ImageColor.getrgb(TONES[name].colour)
        # The edges of letters lie between ink and label.
        colours += [tuple(part * share // 3 for part in full) for share in (1, 2, 3)]
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(chosen or []), *(part for colour in colours for part in colour)])
    return drawn.quantize(palette=palette, dither=Image.Dither.NONE)
