"""Traffic signs drawn by code: shapes, strokes and procedural scenes instead of fonts and photographs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy.spatial.transform import Rotation

__all__ = ["CLASS_NAMES", "SIDE", "SignImages", "render_signs"]

SIDE = 32
"""Height and width of a rendered image in pixels."""

_SUPERSAMPLING = 4
_CANVAS = SIDE * _SUPERSAMPLING
_FACE = 256
_FACE_EXTENT = 1.05
_CAMERA_DISTANCE = 3.5

_RED = (186, 26, 40)
_BLUE = (16, 84, 164)
_YELLOW = (246, 188, 28)
_WHITE = (242, 242, 238)
_BLACK = (24, 24, 28)

_Colour = tuple[int, int, int]
_Point = tuple[float, float]
_Floats = NDArray[np.floating[Any]]
_Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class SignImages:
    """Rendered signs.

    Attributes:
        images: RGB pixels, uint8 (N, 32, 32, 3) in 0..255.
        labels: Indices into `CLASS_NAMES`, int64 (N,).
        masks: True where the pixel shows the sign, bool (N, 32, 32).
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]


def render_signs(count: int, seed: int) -> SignImages:
    """Renders `count` signs, the classes in turn; image i depends on `seed` and i alone.

    Args:
        count: How many images, 0 or more.
        seed: Any integer from 0.
    """
    faces = [draw() for draw in _FACES.values()]
    images = np.empty((count, SIDE, SIDE, 3), dtype=np.uint8)
    masks = np.empty((count, SIDE, SIDE), dtype=np.bool_)
    for index in range(count):
        key = np.random.SeedSequence(seed, spawn_key=(index,))
        rng = np.random.Generator(np.random.Philox(key))
        images[index], masks[index] = _photograph(faces[index % len(faces)], rng)
    return SignImages(images, np.arange(count, dtype=np.int64) % len(faces), masks)


# --- the sign's face, in coordinates from -1 (left, top) to 1 (right, bottom) ---


class _Plate:
    """A sign's face to draw on; everything not drawn on stays transparent."""

    def __init__(self) -> None:
        self.image = Image.new("RGBA", (_FACE, _FACE), (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)

    def polygon(self, points: Iterable[_Point], colour: _Colour) -> None:
        self._draw.polygon([_to_face(point) for point in points], fill=colour)

    def disc(self, radius: float, colour: _Colour, centre: _Point = (0.0, 0.0)) -> None:
        x, y = centre
        corners = [_to_face((x - radius, y - radius)), _to_face((x + radius, y + radius))]
        self._draw.ellipse(corners, fill=colour)

    def stroke(self, points: Sequence[_Point], width: float, colour: _Colour) -> None:
        pixels = round(width * _FACE / (2 * _FACE_EXTENT))
        self._draw.line([_to_face(point) for point in points], fill=colour, width=pixels, joint="curve")
        for end in (points[0], points[-1]):
            self.disc(width / 2, colour, end)

    def text(self, text: str, size: tuple[float, float], gap: float, width: float, colour: _Colour) -> None:
        glyph_width, height = size
        left = -(len(text) * glyph_width + (len(text) - 1) * gap) / 2
        for position, character in enumerate(text):
            x0 = left + position * (glyph_width + gap)
            for path in _GLYPHS[character]:
                self.stroke([(x0 + x * glyph_width, (y - 0.5) * height) for x, y in path], width, colour)


def _to_face(point: _Point) -> _Point:
    scale = _FACE / (2 * _FACE_EXTENT)
    return (point[0] + _FACE_EXTENT) * scale, (point[1] + _FACE_EXTENT) * scale


def _arc(centre: _Point, radii: _Point, start: float, stop: float) -> list[_Point]:
    """Points along an ellipse, in degrees clockwise from the right."""
    angles = np.radians(np.linspace(start, stop, 24))
    return [(centre[0] + radii[0] * float(np.cos(a)), centre[1] + radii[1] * float(np.sin(a))) for a in angles]


def _regular(corners: int, radius: float, first_degrees: float) -> list[_Point]:
    angles = np.radians(first_degrees + 360.0 / corners * np.arange(corners))
    return [(radius * float(np.cos(a)), radius * float(np.sin(a))) for a in angles]


_OVAL = [*_arc((0.5, 0.32), (0.5, 0.32), -180, 0), *_arc((0.5, 0.68), (0.5, 0.32), 0, 180), (0.0, 0.32)]

# Strokes in a box from (0, 0), top left, to (1, 1), bottom right.
_GLYPHS: dict[str, list[list[_Point]]] = {
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


def _lowered(triangle: list[_Point]) -> list[_Point]:
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


_FACES: dict[str, Callable[[], Image.Image]] = {
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

CLASS_NAMES: tuple[str, ...] = tuple(_FACES)
"""The classes' names; a label is a position in this tuple."""


# --- the scene: floats (128, 128, 3) from 0 to 1, reduced to 32 x 32 at the end ---


def _photograph(face: Image.Image, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One sign in a scene: uint8 (32, 32, 3) and the sign's mask, bool (32, 32)."""
    pose = _pose(rng)
    scene = _background(rng)
    scene = _over(scene, *_post(pose, rng))
    plate = _weathered(_warped(face, pose), rng)
    scene = _over(scene, plate[..., :3], plate[..., 3])
    visible = plate[..., 3]
    if rng.random() < 0.1:
        leaf, leaf_alpha = _leaf(pose, rng)
        scene = _over(scene, leaf, leaf_alpha)
        visible = visible * (1 - leaf_alpha)
    scene = _blurred(_shadowed(scene, rng), rng)
    return _exposed(_reduced(scene), rng), _reduced(visible) > 0.5


def _pose(rng: np.random.Generator) -> _Matrix:
    """A homography (3, 3) from the sign's face to canvas pixels: a plate turned in front of a camera."""
    turn = np.clip(rng.normal(0.0, 1.0, 3), -2.2, 2.2) * (7.0, 8.0, 18.0)
    rotation = Rotation.from_euler("zxy", turn, degrees=True).as_matrix()
    radius = _CANVAS * np.exp(rng.uniform(np.log(0.22), np.log(0.47)))
    slack = max(_CANVAS / 2 - radius, 0.04 * _CANVAS)
    x, y = _CANVAS / 2 + np.clip(rng.normal(0.0, 0.5, 2), -1, 1) * slack
    focal = radius * _CAMERA_DISTANCE
    camera = np.array([[focal, 0, x], [0, focal, y], [0, 0, 1.0]])
    placed = np.column_stack([rotation[:, :2], (0.0, 0.0, _CAMERA_DISTANCE)])
    homography: _Matrix = camera @ placed
    return homography


def _project(pose: _Matrix, points: Sequence[_Point]) -> list[_Point]:
    x, y, depth = pose @ np.column_stack([np.asarray(points), np.ones(len(points))]).T
    return list(zip((x / depth).tolist(), (y / depth).tolist(), strict=True))


def _warped(face: Image.Image, pose: _Matrix) -> _Floats:
    """The face as the camera sees it: RGBA floats (128, 128, 4)."""
    scale = _FACE / (2 * _FACE_EXTENT)
    to_face = np.array([[scale, 0, _FACE / 2], [0, scale, _FACE / 2], [0, 0, 1.0]])
    inverse = to_face @ np.linalg.inv(pose)
    coefficients = (inverse / inverse[2, 2]).ravel()[:8].tolist()
    size = (_CANVAS, _CANVAS)
    warped = face.transform(size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(warped, dtype=np.float32) / 255


def _filled(polygon: Sequence[_Point]) -> _Floats:
    """Coverage (128, 128) of a polygon given in canvas pixels."""
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    ImageDraw.Draw(canvas).polygon(list(polygon), fill=1)
    return np.asarray(canvas, dtype=np.float32)


def _over(below: _Floats, above: _Floats, alpha: _Floats) -> _Floats:
    return below + alpha[..., None] * (above - below)


def _post(pose: _Matrix, rng: np.random.Generator) -> tuple[_Floats, _Floats]:
    half = rng.uniform(0.05, 0.1)
    coverage = _filled(_project(pose, [(-half, 0.0), (half, 0.0), (half, 3.0), (-half, 3.0)]))
    return np.full(3, rng.uniform(0.3, 0.65), dtype=np.float32), coverage * float(rng.random() < 0.7)


def _weathered(plate: _Floats, rng: np.random.Generator) -> _Floats:
    """The plate with its colours faded, and dirt on it."""
    colours = plate[..., :3]
    grey = colours.mean(axis=2, keepdims=True)
    faded = grey + (colours - grey) * rng.uniform(0.6, 1.05)
    dirt = 1 - rng.uniform(0.0, 0.3) * _noise(rng, 5)[..., None]
    return np.concatenate([np.clip(faded * dirt, 0, 1), plate[..., 3:]], axis=2, dtype=np.float32)


def _leaf(pose: _Matrix, rng: np.random.Generator) -> tuple[_Floats, _Floats]:
    """A leaf that hangs over a part of the sign but its middle."""
    around, turn = rng.uniform(0, 2 * np.pi, 2)
    length, width = rng.uniform(0.25, 0.4), rng.uniform(0.12, 0.2)
    along = np.linspace(0, 2 * np.pi, 20)
    x = 0.75 * np.cos(around) + length * np.cos(along) * np.cos(turn) - width * np.sin(along) * np.sin(turn)
    y = 0.75 * np.sin(around) + length * np.cos(along) * np.sin(turn) + width * np.sin(along) * np.cos(turn)
    colour = np.array([0.18, 0.34, 0.1], dtype=np.float32) * rng.uniform(0.6, 1.5)
    return colour.astype(np.float32), _filled(_project(pose, list(zip(x.tolist(), y.tolist(), strict=True))))


# --- backgrounds ---


def _noise(rng: np.random.Generator, cells: int) -> _Floats:
    """Smooth noise (128, 128) from 0 to 1 whose blobs are a canvas divided by `cells` wide."""
    grid = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
    return np.asarray(grid.resize((_CANVAS, _CANVAS), Image.Resampling.BICUBIC)).clip(0, 1)


def _between(low: _Colour, high: _Colour, share: _Floats) -> _Floats:
    """Colours (128, 128, 3) mixed by share (128, 128)."""
    dark, light = np.array(low, np.float32) / 255, np.array(high, np.float32) / 255
    return dark + share[..., None] * (light - dark)


def _sky(rng: np.random.Generator) -> _Floats:
    height = np.linspace(0, 1, _CANVAS, dtype=np.float32)[:, None]
    blue = _between((84, 136, 206), (196, 216, 236), np.broadcast_to(height, (_CANVAS, _CANVAS)))
    clouds = np.clip((0.6 * _noise(rng, 4) + 0.4 * _noise(rng, 9)) * 2.4 - rng.uniform(0.2, 1.4), 0, 1)
    return _over(blue, np.full(3, rng.uniform(0.75, 0.97), dtype=np.float32), clouds)


def _foliage(rng: np.random.Generator) -> _Floats:
    clumps = 0.45 * _noise(rng, 7) + 0.35 * _noise(rng, 18) + 0.2 * _noise(rng, 40)
    autumn = rng.random() < 0.25
    light = (190, 140, 60) if autumn else (140, 170, 74)
    return _between((14, 26, 10), light, np.clip(clumps * 1.8 - 0.4, 0, 1))


def _bricks(rng: np.random.Generator) -> _Floats:
    height = int(rng.integers(10, 20))
    width, mortar = int(height * rng.uniform(1.8, 2.6)), max(1, height // 7)
    rows, columns = np.indices((_CANVAS, _CANVAS)) + int(rng.integers(0, 40))
    course = rows // height
    shifted = columns + (course % 2) * (width // 2)
    tones = rng.random((_CANVAS, _CANVAS), dtype=np.float32)[course, shifted // width]
    palette = ((120, 54, 38), (178, 96, 66)) if rng.random() < 0.6 else ((136, 128, 116), (190, 182, 168))
    wall = _between(*palette, 0.7 * tones + 0.3 * _noise(rng, 50))
    joint = (rows % height < mortar) | (shifted % width < mortar)
    return np.where(joint[..., None], np.float32(rng.uniform(0.5, 0.75)), wall)


def _asphalt(rng: np.random.Generator) -> _Floats:
    grain = 0.5 * _noise(rng, 60) + 0.5 * _noise(rng, 5)
    tone = int(rng.integers(40, 130))
    return _between((tone, tone, tone), (tone + 60, tone + 58, tone + 54), grain)


def _facade(rng: np.random.Generator) -> _Floats:
    """A plastered wall with dark windows."""
    wall = _between((168, 156, 136), (226, 214, 190), 0.7 * _noise(rng, 3) + 0.3 * _noise(rng, 40))
    pitch_y, pitch_x = rng.integers(36, 64, 2)
    rows, columns = np.indices((_CANVAS, _CANVAS)) + rng.integers(0, 64, (2, 1, 1))
    window = (rows % pitch_y < pitch_y * 0.55) & (columns % pitch_x < pitch_x * 0.5)
    return np.where(window[..., None], _between((40, 48, 58), (96, 112, 128), _noise(rng, 6)), wall)


def _background(rng: np.random.Generator) -> _Floats:
    """Two materials, the sky only above, that meet at a slanted skyline or kerb, if it is in sight."""
    materials = (_sky, _foliage, _bricks, _asphalt, _facade)
    first, second = rng.integers((0, 1), len(materials))
    rows, columns = np.indices((_CANVAS, _CANVAS), dtype=np.float32)
    ragged = rng.uniform(0, 30) * _noise(rng, 10)
    edge = _CANVAS * rng.uniform(0.1, 1.6) + rng.normal(0, 0.15) * columns + ragged
    below = np.clip(rows - edge, 0, 1).astype(np.float32)
    return _over(materials[first](rng), materials[second](rng), below)


# --- light and camera ---


def _shadowed(scene: _Floats, rng: np.random.Generator) -> _Floats:
    """The scene with a shadow's edge across it, hard or soft."""
    if rng.random() < 0.5:
        return scene
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.indices((_CANVAS, _CANVAS), dtype=np.float32) - _CANVAS / 2
    distance = np.cos(angle) * columns + np.sin(angle) * rows + rng.uniform(-40, 40)
    lit = 1 / (1 + np.exp(-distance / rng.uniform(2, 30)))
    depth = rng.uniform(0.2, 0.65)
    brightness: _Floats = (1 - depth + depth * lit[..., None]).astype(np.float32)
    return scene * brightness


def _blurred(scene: _Floats, rng: np.random.Generator) -> _Floats:
    """The scene out of focus, or smeared along a line by motion; most often neither by much."""
    focus = rng.gamma(1.6, 1.7)
    picture = Image.fromarray((scene * 255).round().clip(0, 255).astype(np.uint8))
    sharp = np.asarray(picture.filter(ImageFilter.GaussianBlur(float(focus))), dtype=np.float32) / 255
    if rng.random() < 0.7:
        return sharp
    length, angle = rng.uniform(4, 14), rng.uniform(0, np.pi)
    steps = np.linspace(-length / 2, length / 2, 7)
    offsets = np.rint(np.outer(steps, (np.sin(angle), np.cos(angle)))).astype(int)
    padded = np.pad(sharp, ((8, 8), (8, 8), (0, 0)), mode="edge")
    smeared = [padded[8 + dy : 8 + dy + _CANVAS, 8 + dx : 8 + dx + _CANVAS] for dy, dx in offsets]
    mean: _Floats = np.mean(smeared, axis=0, dtype=np.float32)
    return mean


def _reduced(canvas: _Floats) -> _Floats:
    """The mean of each 4 x 4 block."""
    blocks = canvas.reshape(SIDE, _SUPERSAMPLING, SIDE, _SUPERSAMPLING, *canvas.shape[2:])
    mean: _Floats = blocks.mean(axis=(1, 3), dtype=np.float32)
    return mean


def _exposed(scene: _Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The sensor's reading, uint8 (32, 32, 3): haze, colour cast, exposure, then photon and read noise."""
    haze = rng.uniform(0, 0.3) * float(rng.random() < 0.3)
    cast = np.exp(rng.normal(0.0, 0.06, 3))
    exposure = np.exp(np.clip(rng.normal(-0.15, 0.48), -1.7, 0.4))
    light = (scene * (1 - haze) + haze * 0.85) * cast * exposure
    photons, read = rng.uniform(0.0, 0.05), rng.uniform(0.003, 0.03)
    grain = rng.standard_normal(light.shape) * np.sqrt(photons**2 * np.clip(light, 0, None) + read**2)
    return np.asarray(np.rint(255 * (light + grain)).clip(0, 255), dtype=np.uint8)
