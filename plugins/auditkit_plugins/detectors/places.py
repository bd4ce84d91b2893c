"""Where pieces go: on an object, beside it, or anywhere in the image; never more than a share of the box or image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from auditkit_plugins.detectors.pieces import Piece

__all__ = ["NUMBERS_A_PLACE", "Layout", "Place", "anywhere", "at_object", "touch"]

Layout = Literal["one", "four"]
"""One rectangle in the middle, or four, in the middle of each quarter."""
Place = Literal["on", "beside"]

NUMBERS_A_PLACE = 4
"""How many uniform numbers `at_object` needs: two for the place, two for the light."""

_JITTER = 0.1
_CONTRAST, _BRIGHTNESS = 0.1, 0.05
_QUARTERS = ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75))


def at_object(
    row: int,
    box: Sequence[float],
    area: float,
    size: tuple[int, int],
    draws: Sequence[float],
    layout: Layout = "one",
    place: Place = "on",
    lit: bool = False,
) -> list[Piece]:
    """Return pieces that together cover at most the share `area` of a box, with its proportions.

    Args:
        row: Which image it is.
        box: Left, top, right, bottom as shares of the image.
        area: The share of the box that may be covered.
        size: Height and width of the image in pixels.
        draws: Four numbers in (0, 1): the pieces lie up to a tenth of the box away from where they belong.
        layout: How many pieces.
        place: On the box; or beside it, where the image has room, as near as can be.
        lit: Whether contrast and brightness vary, too, as in another light.
    """
    height, width = size
    left, top, right, bottom = box[0] * width, box[1] * height, box[2] * width, box[3] * height
    wide, high = right - left, bottom - top
    down, across = (draws[0] - 0.5) * 2 * _JITTER * high, (draws[1] - 0.5) * 2 * _JITTER * wide
    if place == "beside":
        centres = [_beside(left, top, right, bottom, area, size, draws)]
        piece_area = area
    elif layout == "one":
        centres, piece_area = [(top + high / 2 + down, left + wide / 2 + across)], area
    else:
        centres = [(top + y * high + down / 2, left + x * wide + across / 2) for y, x in _QUARTERS]
        piece_area = area / len(_QUARTERS)
    tall, broad = _sides(high, wide, piece_area)
    light = (1 + (2 * draws[2] - 1) * _CONTRAST, (2 * draws[3] - 1) * _BRIGHTNESS) if lit else (1.0, 0.0)
    return [
        Piece(row, _within(y - tall / 2, height - tall), _within(x - broad / 2, width - broad), tall, broad, *light)
        for y, x in centres
        if tall and broad
    ]


def anywhere(row: int, area: float, size: tuple[int, int], draws: Sequence[float], count: int) -> list[Piece]:
    """Return `count` squares that together cover at most the share `area` of an image, none on another where possible.

    Args:
        row: Which image it is.
        area: The share of the image that may be covered.
        size: Height and width of the image in pixels.
        draws: Uniform numbers, two for each try; a square for which every try lies on another goes where the last did.
        count: How many squares.
    """
    height, width = size
    side = min(math.floor(math.sqrt(area * height * width / count) + 1e-6), height, width)
    pieces: list[Piece] = []
    tries = [(draws[at], draws[at + 1]) for at in range(0, len(draws) - 1, 2)]
    share = len(tries) // count
    for number in range(count if side else 0):
        for down, across in tries[number * share : (number + 1) * share]:
            top, left = int(down * (height - side + 1)), int(across * (width - side + 1))
            piece = Piece(row, top, left, side, side, tile=number)
            if not any(touch(piece, other) for other in pieces):
                break
        pieces.append(piece)
    return pieces


def _sides(high: float, wide: float, area: float) -> tuple[int, int]:
    """Return height and width in whole pixels of a piece with the box's proportions, and no larger than allowed."""
    scale = math.sqrt(area)
    tall, broad, most = int(high * scale), int(wide * scale), area * high * wide
    tall, broad = max(tall, 1), max(broad, 1)
    if tall * broad > most:
        return 0, 0
    # What rounding left over may fill one more row or column.
    if tall * (broad + 1) <= most and broad + 1 <= wide:
        broad += 1
    if (tall + 1) * broad <= most and tall + 1 <= high:
        tall += 1
    return tall, broad


def _within(start: float, most: int) -> int:
    return min(max(round(start), 0), max(most, 0))


def touch(first: Piece, second: Piece) -> bool:
    """Return whether two pieces of one image have a pixel in common."""
    return (
        first.top < second.top + second.height
        and second.top < first.top + first.height
        and first.left < second.left + second.width
        and second.left < first.left + first.width
    )


def _beside(
    left: float, top: float, right: float, bottom: float, area: float, size: tuple[int, int], draws: Sequence[float]
) -> tuple[float, float]:
    """Return the centre of a piece that touches the box from outside, on one of the sides where the image has room."""
    height, width = size
    tall, broad = _sides(bottom - top, right - left, area)
    sides = (
        ((top + bottom) / 2, left - broad / 2),
        ((top + bottom) / 2, right + broad / 2),
        (top - tall / 2, (left + right) / 2),
        (bottom + tall / 2, (left + right) / 2),
    )
    fits = [(y, x) for y, x in sides if tall / 2 <= y <= height - tall / 2 and broad / 2 <= x <= width - broad / 2]
    choice = fits or list(sides[:1])
    return choice[int(draws[0] * len(choice))]
