"""How textures are learned: sign steps with momentum, on mini-batches with fresh places and light each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit import Context, Differentiable, Streams
from auditkit_plugins.detectors.pieces import Piece, laid, plan_sheet
from auditkit_plugins.detectors.training_pool import Pool
from auditkit_plugins.printable import non_printability

__all__ = ["Goal", "Scene", "Texture", "learned_tiles"]

_MOMENTUM = 0.9
_FIRST_STEP, _LAST_SHARE = 8 / 255, 0.03


@dataclass(frozen=True)
class Scene:
    """A mini-batch with pieces on it, and what the loss must know of each image."""

    pieces: Sequence[Piece]
    aligned: tuple[Tensor, ...]


@dataclass(frozen=True)
class Goal:
    """What a texture is for: where its pieces go on images of the pool, and what is to become small."""

    scene: Callable[[Tensor, Streams, int], Scene]
    """Which images of the pool (B,), random streams of theirs, and the number of the step, to pieces on them."""
    loss: Callable[..., Tensor]
    """Packed candidates (B, M, 4 + K), and the scene's aligned tensors, to (B,)."""


@dataclass(frozen=True)
class Texture:
    """How textures are learned, whatever for."""

    side: int
    """Texels of a tile on each side, one a pixel."""
    tiles: int
    """How many there are."""
    steps: int
    mini_batch: int
    smoothness: float
    """The weight of the tiles' total variation."""
    printability: float
    """The weight of the distance to printable colours."""


def learned_tiles(search: Differentiable, pool: Pool, goal: Goal, texture: Texture, ctx: Context, name: str) -> Tensor:
    """Return tiles (P, C, S, S) whose pieces serve the goal; `name` sets their random numbers apart."""
    channels, side = pool.images.shape[1], texture.side
    order = ctx.streams(["order"], name)
    tiles = order.uniform(0, (texture.tiles, channels, side, side))[0]
    velocity = torch.zeros_like(tiles)
    for step in range(texture.steps):
        ctx.check_time()
        rows = order.uniform(step + 1, (len(pool),))[0].argsort()[: texture.mini_batch]
        images = pool.images[rows]
        streams = ctx.streams([f"{name} {row}" for row in rows.tolist()], "scene")
        scene = goal.scene(rows, streams, step)
        gradient = _gradient(search, images, tiles, scene, goal.loss, texture)
        scale = gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-20)
        velocity = _MOMENTUM * velocity + gradient / scale
        share = _LAST_SHARE + (1 - _LAST_SHARE) * 0.5 * (1 + math.cos(math.pi * step / texture.steps))
        tiles = (tiles - _FIRST_STEP * share * velocity.sign()).clamp(0, 1)
    return tiles


def _gradient(
    search: Differentiable,
    images: Tensor,
    tiles: Tensor,
    scene: Scene,
    loss: Callable[..., Tensor],
    texture: Texture,
) -> Tensor:
    """Return the gradient (P, C, S, S) of the mean loss of these images with pieces of the tiles on them."""
    with torch.enable_grad():
        leaf = tiles.detach().requires_grad_(True)
        covered = laid(images, leaf, plan_sheet(scene.pieces, images, texture.side))
        _, gradients = search.gradient(covered, loss, *scene.aligned)
        (gradient,) = torch.autograd.grad(covered, leaf, gradients / len(images))
        penalty = leaf.new_zeros(())
        if texture.smoothness:
            penalty = penalty + texture.smoothness * _variation(leaf)
        if texture.printability:
            penalty = penalty + texture.printability * non_printability(leaf).sum()
        if penalty.requires_grad:
            gradient = gradient + torch.autograd.grad(penalty, leaf)[0]
    return gradient


def _variation(tiles: Tensor) -> Tensor:
    """Return how much neighbouring texels differ on average, those across the seam of a repeated tile included."""
    return (tiles - tiles.roll(1, 2)).abs().mean() + (tiles - tiles.roll(1, 3)).abs().mean()
