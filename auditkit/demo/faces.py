"""The signs' faces, in coordinates from -1 (left, top) to 1 (right, bottom); letters are strokes, not fonts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from auditkit.demo.canvas import Colour, Point

__all__ = ["FACES", "FACE_EXTENT", "FACE_SIZE"]

FACE_SIZE = 256
"""Height and width of a face in pixels."""
FACE_EXTENT = 1.05
"""The coordinate at a face's border."""

_RED = (186, 26, 40)
_BLUE = (16, 84, 164)
_YELLOW = (246, 188, 28)
_WHITE = (242, 242, 238)
_BLACK = (24, 24, 28)


class _Plate:
    """A sign's face to draw on; everything not drawn on stays transparent."""

    def __init__(self) -> None:
        self.image = Image.new("RGBA", (FACE_SIZE, FACE_SIZE), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)

    def polygon(self, points: Iterable[Point], colour: Colour) -> None:
        self._draw.polygon([_to_face(point) for point in points], fill=colour)

    def disc(self, radius: float, colour: Colour, centre: Point = (0.0, 0.0)) -> None:
        x, y = centre
        corners = [_to_face((x - radius, y - radius)), _to_face((x + radius, y + radius))]
        self._draw.ellipse(corners, fill=colour)

    def stroke(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        pixels = round(width * FACE_SIZE / (2 * FACE_EXTENT))
        self._draw.line([_to_face(point) for point in points], fill=colour, width=pixels, joint="curve")
        for end in (points[0], points[-1]):
            self.disc(width / 2, colour, end)

    def text(self, text: str, size: tuple[float, float], gap: float, width: float, colour: Colour) -> None:
        glyph_width, height = size
        left = -(len(text) * glyph_width + (len(text) - 1) * gap) / 2
        for position, character in enumerate(text):
            x0 = left + position * (glyph_width + gap)
            for path in _GLYPHS[character]:
                self.stroke([(x0 + x * glyph_width, (y - 0.5) * height) for x, y in path], width, colour)


def _to_face(point: Point) -> Point:
    scale = FACE_SIZE / (2 * FACE_EXTENT)
    return (point[0] + FACE_EXTENT) * scale, (point[1] + FACE_EXTENT) * scale


def _arc(centre: Point, radii: Point, start: float, stop: float) -> list[Point]:
    """Points along an ellipse, in degrees clockwise from the right."""
    angles = np.radians(np.linspace(start, stop, 24))
    return [(centre[0] + radii[0] * float(np.cos(a)), centre[1] + radii[1] * float(np.sin(a))) for a in angles]


def _regular(corners: int, radius: float, first_degrees: float) -> list[Point]:
    angles = np.radians(first_degrees + 360.0 / corners * np.arange(corners))
    return [(radius * float(np.cos(a)), radius * float(np.sin(a))) for a in angles]


_OVAL = [*_arc((0.5, 0.32), (0.5, 0.32), -180, 0), *_arc((0.5, 0.68), (0.5, 0.32), 0, 180), (0.0, 0.32)]

# Strokes in a box from (0, 0), top left, to (1, 1), bottom right.
_GLYPHS: dict[str, list[list[Point]]] = {
    "0": [_OVAL],
    "3": [
        _arc((0.44, 0.25), (0.46, 0.25), -160, 90),
        _arc((0.44, 0.75), (0.54, 0.26), -90, 160),
    ],
    "5": [[(0.92, 0.0), (0.14, 0.0), (0.06, 0.47), *_arc((0.45, 0.68), (0.53, 0.32), -130, 155)]],
    "7": [[(0.0, 0.0), (1.0, 0.0), (0.6, 0.45), (0.36, 1.0)]],
    "8": [_arc((0.5, 0.24), (0.42, 0.24), 0, 360), _arc((0.5, 0.74), (0.5, 0.26), 0, 360)],
    "S": [[*_arc((0.5, 0.25), (0.48, 0.25), -25, -270), *_arc((0.5, 0.75), (0.5, 0.25), -90, 155)]],
    "T": [[(0.0, 0.0), (1.0, 0.0)], [(0.5, 0.0), (0.5, 1.0)]],
    "O": [_OVAL],
    "P": [[(0.0, 1.0), (0.0, 0.0), *_arc((0.5, 0.27), (0.5, 0.27), -90, 90), (0.0, 0.54)]],
}


def _stop() -> Image.Image:
    plate = _Plate()
    plate.polygon(_regular(8, 1.0, 22.5), _WHITE)
    plate.polygon(_regular(8, 0.93, 22.5), _RED)
    plate.text("STOP", size=(0.25, 0.56), gap=0.17, width=0.13, colour=_WHITE)
    return plate.image


def _speed_limit(limit: str) -> Image.Image:
    plate = _Plate()
    plate.disc(1.0, _WHITE)
    plate.disc(0.97, _RED)
    plate.disc(0.74, _WHITE)
    plate.text(limit, size=(0.34, 0.68), gap=0.24, width=0.15, colour=_BLACK)
    return plate.image


def _yield() -> Image.Image:
    plate = _Plate()
    plate.polygon(_lowered(_regular(3, 1.12, 90)), _WHITE)
    plate.polygon(_lowered(_regular(3, 1.06, 90)), _RED)
    plate.polygon(_lowered(_regular(3, 0.58, 90)), _WHITE)
    return plate.image


def _lowered(triangle: list[Point]) -> list[Point]:
    """The triangle with its height, not its centroid, in the middle of the face."""
    return [(x, y - 0.22) for x, y in triangle]


def _no_entry() -> Image.Image:
    plate = _Plate()
    plate.disc(1.0, _WHITE)
    plate.disc(0.95, _RED)
    plate.polygon([(-0.72, -0.17), (0.72, -0.17), (0.72, 0.17), (-0.72, 0.17)], _WHITE)
    return plate.image


def _priority_road() -> Image.Image:
    plate = _Plate()
    plate.polygon(_regular(4, 1.04, 0), _BLACK)
    plate.polygon(_regular(4, 1.0, 0), _WHITE)
    plate.polygon(_regular(4, 0.66, 0), _YELLOW)
    return plate.image


def _turn_right() -> Image.Image:
    plate = _blue_disc()
    bend = _arc((-0.02, 0.0), (0.24, 0.24), 180, 270)
    plate.stroke([(-0.26, 0.55), *bend, (0.2, -0.24)], 0.24, _WHITE)
    plate.polygon([(0.16, -0.62), (0.66, -0.24), (0.16, 0.14)], _WHITE)
    return plate.image


def _ahead() -> Image.Image:
    plate = _blue_disc()
    plate.stroke([(0.0, 0.58), (0.0, -0.2)], 0.24, _WHITE)
    plate.polygon([(-0.42, -0.12), (0.0, -0.7), (0.42, -0.12)], _WHITE)
    return plate.image


def _blue_disc() -> _Plate:
    plate = _Plate()
    plate.disc(1.0, _WHITE)
    plate.disc(0.95, _BLUE)
    return plate


FACES: dict[str, Callable[[], Image.Image]] = {
    "stop": _stop,
    "speed limit 30": lambda: _speed_limit("30"),
    "speed limit 50": lambda: _speed_limit("50"),
    "speed limit 70": lambda: _speed_limit("70"),
    "speed limit 80": lambda: _speed_limit("80"),
    "yield": _yield,
    "no entry": _no_entry,
    "priority road": _priority_road,
    "turn right": _turn_right,
    "ahead only": _ahead,
}
"""How to draw each class's face, RGBA, by the class's name."""
