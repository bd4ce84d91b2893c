"""A sign in a scene, lit and photographed: floats (128, 128, 3) from 0 to 1, reduced to 32 x 32 at the end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy.spatial.transform import Rotation

from auditkit.demo.backgrounds import background
from auditkit.demo.canvas import CANVAS, SIDE, SUPERSAMPLING, Floats, Point, noise, over
from auditkit.demo.faces import FACE_EXTENT, FACE_SIZE

__all__ = ["photograph"]

_CAMERA_DISTANCE = 3.5

_Matrix = NDArray[np.float64]


def photograph(face: Image.Image, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One sign in a scene: uint8 (32, 32, 3) and the sign's mask, bool (32, 32)."""
    pose = _pose(rng)
    scene = background(rng)
    scene = over(scene, *_post(pose, rng))
    plate = _weathered(_warped(face, pose), rng)
    scene = over(scene, plate[..., :3], plate[..., 3])
    visible = plate[..., 3]
    if rng.random() < 0.1:
        leaf, leaf_alpha = _leaf(pose, rng)
        scene = over(scene, leaf, leaf_alpha)
        visible = visible * (1 - leaf_alpha)
    scene = _blurred(_shadowed(scene, rng), rng)
    return _exposed(_reduced(scene), rng), _reduced(visible) > 0.5


def _pose(rng: np.random.Generator) -> _Matrix:
    """A homography (3, 3) from the sign's face to canvas pixels: a plate turned in front of a camera."""
    turn = np.clip(rng.normal(0.0, 1.0, 3), -2.2, 2.2) * (7.0, 8.0, 18.0)
    rotation = Rotation.from_euler("zxy", turn, degrees=True).as_matrix()
    radius = CANVAS * np.exp(rng.uniform(np.log(0.22), np.log(0.47)))
    slack = max(CANVAS / 2 - radius, 0.04 * CANVAS)
    x, y = CANVAS / 2 + np.clip(rng.normal(0.0, 0.5, 2), -1, 1) * slack
    focal = radius * _CAMERA_DISTANCE
    camera = np.array([[focal, 0, x], [0, focal, y], [0, 0, 1.0]])
    placed = np.column_stack([rotation[:, :2], (0.0, 0.0, _CAMERA_DISTANCE)])
    homography: _Matrix = camera @ placed
    return homography


def _project(pose: _Matrix, points: Sequence[Point]) -> list[Point]:
    x, y, depth = pose @ np.column_stack([np.asarray(points), np.ones(len(points))]).T
    return list(zip((x / depth).tolist(), (y / depth).tolist(), strict=True))


def _warped(face: Image.Image, pose: _Matrix) -> Floats:
    """The face as the camera sees it: RGBA floats (128, 128, 4)."""
    scale = FACE_SIZE / (2 * FACE_EXTENT)
    to_face = np.array([[scale, 0, FACE_SIZE / 2], [0, scale, FACE_SIZE / 2], [0, 0, 1.0]])
    inverse = to_face @ np.linalg.inv(pose)
    coefficients = (inverse / inverse[2, 2]).ravel()[:8].tolist()
    size = (CANVAS, CANVAS)
    warped = face.transform(size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR)
    return np.asarray(warped, dtype=np.float32) / 255


def _filled(polygon: Sequence[Point]) -> Floats:
    """Coverage (128, 128) of a polygon given in canvas pixels."""
    canvas = Image.new("L", (CANVAS, CANVAS))
    ImageDraw.Draw(canvas).polygon(list(polygon), fill=1)
    return np.asarray(canvas, dtype=np.float32)


def _post(pose: _Matrix, rng: np.random.Generator) -> tuple[Floats, Floats]:
    half = rng.uniform(0.05, 0.1)
    coverage = _filled(_project(pose, [(-half, 0.0), (half, 0.0), (half, 3.0), (-half, 3.0)]))
    return np.full(3, rng.uniform(0.3, 0.65), dtype=np.float32), coverage * float(rng.random() < 0.7)


def _weathered(plate: Floats, rng: np.random.Generator) -> Floats:
    """The plate with its colours faded, and dirt on it."""
    colours = plate[..., :3]
    grey = colours.mean(axis=2, keepdims=True)
    faded = grey + (colours - grey) * rng.uniform(0.6, 1.05)
    dirt = 1 - rng.uniform(0.0, 0.3) * noise(rng, 5)[..., None]
    return np.concatenate([np.clip(faded * dirt, 0, 1), plate[..., 3:]], axis=2, dtype=np.float32)


def _leaf(pose: _Matrix, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """A leaf that hangs over a part of the sign but its middle."""
    around, turn = rng.uniform(0, 2 * np.pi, 2)
    length, width = rng.uniform(0.25, 0.4), rng.uniform(0.12, 0.2)
    along = np.linspace(0, 2 * np.pi, 20)
    x = 0.75 * np.cos(around) + length * np.cos(along) * np.cos(turn) - width * np.sin(along) * np.sin(turn)
    y = 0.75 * np.sin(around) + length * np.cos(along) * np.sin(turn) + width * np.sin(along) * np.cos(turn)
    colour = np.array([0.18, 0.34, 0.1], dtype=np.float32) * rng.uniform(0.6, 1.5)
    return colour.astype(np.float32), _filled(_project(pose, list(zip(x.tolist(), y.tolist(), strict=True))))


def _shadowed(scene: Floats, rng: np.random.Generator) -> Floats:
    """The scene with a shadow's edge across it, hard or soft."""
    if rng.random() < 0.5:
        return scene
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.indices((CANVAS, CANVAS), dtype=np.float32) - CANVAS / 2
    distance = np.cos(angle) * columns + np.sin(angle) * rows + rng.uniform(-40, 40)
    lit = 1 / (1 + np.exp(-distance / rng.uniform(2, 30)))
    depth = rng.uniform(0.2, 0.65)
    brightness: Floats = (1 - depth + depth * lit[..., None]).astype(np.float32)
    return scene * brightness


def _blurred(scene: Floats, rng: np.random.Generator) -> Floats:
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
    smeared = [padded[8 + dy : 8 + dy + CANVAS, 8 + dx : 8 + dx + CANVAS] for dy, dx in offsets]
    mean: Floats = np.mean(smeared, axis=0, dtype=np.float32)
    return mean


def _reduced(canvas: Floats) -> Floats:
    """The mean of each 4 x 4 block."""
    blocks = canvas.reshape(SIDE, SUPERSAMPLING, SIDE, SUPERSAMPLING, *canvas.shape[2:])
    mean: Floats = blocks.mean(axis=(1, 3), dtype=np.float32)
    return mean


def _exposed(scene: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The sensor's reading, uint8 (32, 32, 3): haze, colour cast, exposure, then photon and read noise."""
    haze = rng.uniform(0, 0.3) * float(rng.random() < 0.3)
    cast = np.exp(rng.normal(0.0, 0.06, 3))
    exposure = np.exp(np.clip(rng.normal(-0.15, 0.48), -1.7, 0.4))
    light = (scene * (1 - haze) + haze * 0.85) * cast * exposure
    photons, read = rng.uniform(0.0, 0.05), rng.uniform(0.003, 0.03)
    grain = rng.standard_normal(light.shape) * np.sqrt(photons**2 * np.clip(light, 0, None) + read**2)
    return np.asarray(np.rint(255 * (light + grain)).clip(0, 255), dtype=np.uint8)
