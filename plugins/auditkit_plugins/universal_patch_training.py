"""How one patch is learned from many images: which class it stands for, where it is stuck, and its colours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit import Context, Differentiable, Samples, Streams, budget_text
from auditkit_plugins.placement import (
    NUMBERS_A_PLACEMENT,
    Placement,
    Shape,
    drawn_placement,
    placed,
    side_of,
    texels,
)
from auditkit_plugins.printable import non_printability

__all__ = ["Place", "Training", "Transforms"]

Place = tuple[float, float]
"""Shares of the way from the upper edge to the lower, and from the left edge to the right."""

_FIRST_STEP, _LAST_STEP = 0.1, 0.005
_MOMENTUM = 0.9
_TURN_OVER = 0.5
# A patch that leads all images to one class can be stronger than one for which any wrong class will do, if it is the
# right class: on ResNet-20, of 269 correct held-out images 58 % instead of 50 %, not counting what it does to images of
# that class (one run each, moved by whole pixels, not turned). Each likely class is tried in few steps.
_MOST_TRIALS, _SHARE_OF_TRIAL = 10, 8
_NO_CLASS = -1
# A patch of few steps works hardly anywhere, and tells places apart by chance: after an eighth of the steps the best
# place on ResNet-20 was once at the upper edge; after half of them it was about a third of the way down.
_SHARE_OF_LOOK = 2
# How exactly a sticker can be put where it is meant to be: a share of the way between the edges, from end to end.
_JITTER = 0.1
# The best place is looked for on a lattice, from so many random placings of each image; those within about this share
# of the way between the edges tell about a place.
_LATTICE, _LOOKS, _NEARBY = 17, 8, 0.1


@dataclass(frozen=True)
class Transforms:
    """The ways in which a patch of one size is laid on images."""

    area: float
    shape: Shape
    turn: float
    """In radians, either way."""
    shrink: float
    light: float
    spread: float
    place: Place | None = None
    """Where it is stuck, up to a small error; None: anywhere within `spread` of the middle."""

    def texels(self, images: Tensor) -> int:
        """Return how many colour values the patch has on each side."""
        return texels(self._largest(images))

    def drawn(self, streams: Streams, draw: int, images: Tensor) -> Placement:
        """Return one random placement for each image."""
        draws = streams.uniform(draw, (NUMBERS_A_PLACEMENT,))
        spread = self.spread
        if self.place is not None:
            stuck = draws.new_tensor(self.place) + _JITTER * (draws[:, :2] - 0.5)
            draws, spread = torch.cat([stuck.clamp(0, 1), draws[:, 2:]], 1), 1.0
        extent = (images.shape[2], images.shape[3])
        return drawn_placement(
            draws, self._largest(images), extent, self.shape, self.turn, self.shrink, self.light, spread
        )

    def _largest(self, images: Tensor) -> float:
        return side_of(self.area, images.shape[2], images.shape[3], self.shape)


@dataclass(frozen=True)
class Training:
    """The images that patches are learned from, and what is known of them."""

    search: Differentiable
    samples: Samples
    """In the order of their names, so that the order of the data set does not matter."""
    logits: Tensor
    """float32 (N, K): the deployed model's on the clean images."""
    ctx: Context
    targeted: bool
    """Whether success is one class alone, rather than any wrong class."""
    mini_batch: int
    printability: float

    def best_aim(self, transforms: Transforms, steps: int) -> int:
        """Return the class to which a patch of an eighth of the steps leads best, or that of no particular class."""
        predicted = self.logits.argmax(1)
        next_best = self.logits.scatter(1, predicted.unsqueeze(1), -math.inf).argmax(1)
        nearby = torch.bincount(next_best, minlength=self.logits.shape[1]).argsort(descending=True, stable=True)
        fooled: dict[int, float] = {}
        for aim in (_NO_CLASS, *nearby[:_MOST_TRIALS].tolist()):
            patch = self.patch(transforms, aim, max(1, steps // _SHARE_OF_TRIAL))
            fooled[aim] = float((self.said(patch, transforms) != predicted).double().mean())
        return max(fooled, key=fooled.__getitem__)

    def best_place(self, transforms: Transforms, aim: int, steps: int) -> Place:
        """Return where a patch works best that was trained for half the steps to lie anywhere."""
        patch = self.patch(transforms, aim, max(1, steps // _SHARE_OF_LOOK))
        tried, steadiness = self._looks(patch, transforms, aim)
        shares = torch.linspace(0, 1, _LATTICE, dtype=torch.float64, device=patch.device)
        lattice = torch.cartesian_prod(shares, shares)
        weight = (-0.5 * (torch.cdist(lattice, tried) / _NEARBY).square()).exp()
        best = lattice[((weight @ steadiness) / weight.sum(1)).argmin()]
        down, across = (0.5 + (best - 0.5) * transforms.spread).tolist()
        return down, across

    def patch(self, transforms: Transforms, aim: int, steps: int) -> Tensor:
        """Return a patch (C, S, S) that leads many images to a class: sign steps with momentum on mini-batches."""
        samples, ctx, name = self.samples, self.ctx, budget_text(transforms.area)
        aligned = self._aligned(aim)
        order = ctx.streams(["order"], name)
        streams = ctx.streams(samples.ids, f"training {name}")
        side = transforms.texels(samples.images)
        patch = order.uniform(0, (samples.images.shape[1], side, side))[0]
        velocity = torch.zeros_like(patch)
        for step in range(steps):
            ctx.check_time()
            rows = order.uniform(step + 1, (len(samples),))[0].argsort()[: self.mini_batch]
            images = samples.images[rows]
            where = transforms.drawn(Streams(streams.keys[rows]), step, images)
            gradient = self._gradient(images, patch, where, transforms.shape, *(each[rows] for each in aligned))
            velocity = _MOMENTUM * velocity + gradient / gradient.abs().mean().clamp_min(1e-20)
            length = _FIRST_STEP * (_LAST_STEP / _FIRST_STEP) ** (step / steps)
            patch = (patch - length * velocity.sign()).clamp(0, 1)
        return patch

    def said(self, patch: Tensor, transforms: Transforms) -> Tensor:
        """Return int64 (N,): what the search copy says of the images under a placing not trained on."""
        where = transforms.drawn(self.ctx.streams(self.samples.ids, "trying"), 0, self.samples.images)
        return self.search.logits(placed(self.samples.images, patch, where, transforms.shape)).argmax(1)

    def _looks(self, patch: Tensor, transforms: Transforms, aim: int) -> tuple[Tensor, Tensor]:
        """Return places at random (M, 2), and how steady an image is with the patch there, float64 (M,)."""
        streams = self.ctx.streams(self.samples.ids, f"looking {budget_text(transforms.area)}")
        tried, steadiness = [], []
        for draw in range(_LOOKS):
            self.ctx.check_time()
            where = transforms.drawn(streams, draw, self.samples.images)
            logits = self.search.logits(placed(self.samples.images, patch, where, transforms.shape))
            steadiness.append(_steadiness(logits, *self._aligned(aim)))
            tried.append(streams.uniform(draw, (NUMBERS_A_PLACEMENT,))[:, :2])
        return torch.cat(tried).double(), torch.cat(steadiness).double()

    def _aligned(self, aim: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is said of the clean images, where each is led, and how far the loss reaches, (N,) each."""
        predicted = self.logits.argmax(1)
        # An image of that very class is led to any other, if any wrong class will do.
        free = torch.zeros_like(predicted, dtype=torch.bool) if self.targeted else predicted == aim
        aims = torch.full_like(predicted, aim).masked_fill(free, _NO_CLASS)
        turn = (_TURN_OVER * _margin(self.logits, predicted).median()).clamp_min(1e-20).expand(len(predicted))
        return predicted, aims, turn

    def _gradient(self, images: Tensor, patch: Tensor, where: Placement, shape: Shape, *aligned: Tensor) -> Tensor:
        """Return the gradient (C, S, S) of the mean loss of these images with the patch on them."""
        with torch.enable_grad():
            leaf = patch.detach().requires_grad_(True)
            patched = placed(images, leaf, where, shape)
            _, gradients = self.search.gradient(patched, _steadiness, *aligned)
            (gradient,) = torch.autograd.grad(patched, leaf, gradients / len(images))
            if self.printability:
                penalty = self.printability * non_printability(leaf.unsqueeze(0)).sum()
                gradient = gradient + torch.autograd.grad(penalty, leaf)[0]
        return gradient


def _steadiness(logits: Tensor, labels: Tensor, aim: Tensor, turn: Tensor) -> Tensor:
    """Return about 1 where the prediction stands (the aim is not reached), about 0 where it is not (it is)."""
    short_of_aim = -_margin(logits, aim.clamp_min(0))
    return (torch.where(aim < 0, _margin(logits, labels), short_of_aim) / turn).sigmoid()


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own - logits.scatter(1, labels.unsqueeze(1), -math.inf).amax(1)
