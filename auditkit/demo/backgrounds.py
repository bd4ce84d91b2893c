"""Backgrounds: procedural materials, floats (128, 128, 3) from 0 to 1."""

from __future__ import annotations

import numpy as np

from auditkit.demo.canvas import CANVAS, Colour, Floats, noise, over

__all__ = ["background"]


def _between(low: Colour, high: Colour, share: Floats) -> Floats:
    """Colours (128, 128, 3) mixed by share (128, 128)."""
    dark, light = np.array(low, np.float32) / 255, np.array(high, np.float32) / 255
    return dark + share[..., None] * (light - dark)


def _sky(rng: np.random.Generator) -> Floats:
    height = np.linspace(0, 1, CANVAS, dtype=np.float32)[:, None]
    blue = _between((84, 136, 206), (196, 216, 236), np.broadcast_to(height, (CANVAS, CANVAS)))
    clouds = np.clip((0.6 * noise(rng, 4) + 0.4 * noise(rng, 9)) * 2.4 - rng.uniform(0.2, 1.4), 0, 1)
    return over(blue, np.full(3, rng.uniform(0.75, 0.97), dtype=np.float32), clouds)


def _foliage(rng: np.random.Generator) -> Floats:
    clumps = 0.45 * noise(rng, 7) + 0.35 * noise(rng, 18) + 0.2 * noise(rng, 40)
    autumn = rng.random() < 0.25
    light = (190, 140, 60) if autumn else (140, 170, 74)
    return _between((14, 26, 10), light, np.clip(clumps * 1.8 - 0.4, 0, 1))


def _bricks(rng: np.random.Generator) -> Floats:
    height = int(rng.integers(10, 20))
    width, mortar = int(height * rng.uniform(1.8, 2.6)), max(1, height // 7)
    rows, columns = np.indices((CANVAS, CANVAS)) + int(rng.integers(0, 40))
    course = rows // height
    shifted = columns + (course % 2) * (width // 2)
    tones = rng.random((CANVAS, CANVAS), dtype=np.float32)[course, shifted // width]
    palette = ((120, 54, 38), (178, 96, 66)) if rng.random() < 0.6 else ((136, 128, 116), (190, 182, 168))
    wall = _between(*palette, 0.7 * tones + 0.3 * noise(rng, 50))
    joint = (rows % height < mortar) | (shifted % width < mortar)
    return np.where(joint[..., None], np.float32(rng.uniform(0.5, 0.75)), wall)


def _asphalt(rng: np.random.Generator) -> Floats:
    grain = 0.5 * noise(rng, 60) + 0.5 * noise(rng, 5)
    tone = int(rng.integers(40, 130))
    return _between((tone, tone, tone), (tone + 60, tone + 58, tone + 54), grain)


def _facade(rng: np.random.Generator) -> Floats:
    """A plastered wall with dark windows."""
    wall = _between((168, 156, 136), (226, 214, 190), 0.7 * noise(rng, 3) + 0.3 * noise(rng, 40))
    pitch_y, pitch_x = rng.integers(36, 64, 2)
    rows, columns = np.indices((CANVAS, CANVAS)) + rng.integers(0, 64, (2, 1, 1))
    window = (rows % pitch_y < pitch_y * 0.55) & (columns % pitch_x < pitch_x * 0.5)
    return np.where(window[..., None], _between((40, 48, 58), (96, 112, 128), noise(rng, 6)), wall)


def background(rng: np.random.Generator) -> Floats:
    """Two materials, the sky only above, that meet at a slanted skyline or kerb, if it is in sight."""
    materials = (_sky, _foliage, _bricks, _asphalt, _facade)
    first, second = rng.integers((0, 1), len(materials))
    rows, columns = np.indices((CANVAS, CANVAS), dtype=np.float32)
    ragged = rng.uniform(0, 30) * noise(rng, 10)
    edge = CANVAS * rng.uniform(0.1, 1.6) + rng.normal(0, 0.15) * columns + ragged
    below = np.clip(rows - edge, 0, 1).astype(np.float32)
    return over(materials[first](rng), materials[second](rng), below)
