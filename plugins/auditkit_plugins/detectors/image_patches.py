"""Patches made for one image each: the surest object vanishes under one, or one is taken for many objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from auditkit import CLEAN_DETECTIONS, Context, Detections, Detector, Samples, Streams, overlaps
from auditkit_plugins.detectors.losses import still_found, taken_for_many
from auditkit_plugins.detectors.pieces import Piece
from auditkit_plugins.detectors.places import anywhere, at_object

__all__ = ["PATCHES", "Patch", "Patched", "patched"]

Patch = Literal["vanish", "flood"]
PATCHES: tuple[Patch, ...] = get_args(Patch)

_MOMENTUM = 0.75
_FIRST_STEP, _LAST_SHARE = 24 / 255, 0.1
# Without gradients a step is worth less, but costs half as much.
_QUERIES_A_STEP = 10
_IN_ITS_PLACE = 0.5
# So many detections whose middle is on a patch are no chance.
_FLOOD = 3
_MIDDLE = (0.5, 0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Patched:
    """M images on which a patch does what it is for."""

    images: Tensor
    """float32 (M, C, H, W)."""
    rows: Tensor
    """int64 (M,): which of the samples they are, in ascending order."""
    where: Tensor
    """bool (M, H, W): the pixels of the patch."""
    forwards: Tensor
    """int64 (N,), of all samples."""
    backwards: Tensor
    """int64 (N,)."""


@dataclass(frozen=True)
class _Plan:
    """Where patches go, on images that have a place for one, and what is to become small."""

    rows: Tensor
    where: Tensor
    loss: Callable[..., Tensor]
    aligned: tuple[Tensor, ...]


def patched(kind: Patch, detector: Detector, samples: Samples, area: float, steps: int, ctx: Context) -> Patched:
    """Return the samples with a patch each, where it succeeds: by the gradient if there is one, else by random search.

    A patch that makes an object vanish covers the share `area` of the box of the surest detection; one that is taken
    for many objects covers that share of the image, anywhere.
    """
    plan = (_on_the_surest if kind == "vanish" else _anywhere)(detector, samples, area, ctx)
    taken = samples.take(plan.rows)
    streams = ctx.streams(taken.ids, f"{kind} patch")
    start = torch.where(plan.where.unsqueeze(1), streams.uniform(0, taken.images.shape[1:]), taken.images)
    if ctx.search is not None:
        images = _descended(start, plan, steps, ctx)
    else:
        images = _searched(detector, start, plan, steps * _QUERIES_A_STEP, streams, ctx)
    done = (_gone if kind == "vanish" else _floods)(detector.detect(images), plan, detector.score)
    forwards = torch.ones(len(samples), dtype=torch.int64, device=images.device)
    backwards = torch.zeros_like(forwards)
    forwards[plan.rows] += steps if ctx.search is not None else steps * _QUERIES_A_STEP
    backwards[plan.rows] += steps if ctx.search is not None else 0
    return Patched(images[done], plan.rows[done], plan.where[done], forwards, backwards)


def _descended(points: Tensor, plan: _Plan, steps: int, ctx: Context) -> Tensor:
    """Return images whose patches went down the gradient of the loss, in sign steps with momentum."""
    assert ctx.search is not None  # noqa: S101 (the caller looked)
    where, velocity = plan.where.unsqueeze(1), torch.zeros_like(points)
    for step in range(steps if len(points) else 0):
        ctx.check_time()
        _, gradient = ctx.search.gradient(points, plan.loss, *plan.aligned)
        # The largest value, unlike a sum, is the same in whatever order a row is read.
        scale = gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(gradient.dtype).tiny)
        velocity = _MOMENTUM * velocity + gradient / scale
        length = _FIRST_STEP * max(1 - step / steps, _LAST_SHARE)
        points = torch.where(where, (points - length * velocity.sign()).clamp(0, 1), points)
    return points


def _searched(detector: Detector, points: Tensor, plan: _Plan, queries: int, draws: Streams, ctx: Context) -> Tensor:
    """Return images whose patches were improved by rectangles of one random colour, as far as the detector says."""
    if not len(points):
        return points
    best = _losses(detector, points, plan)
    for query in range(1, queries):
        ctx.check_time()
        tried = torch.where(_rectangle(draws, query, plan.where), _colour(draws, query, points), points)
        losses = _losses(detector, tried, plan)
        better = losses < best
        best = torch.where(better, losses, best)
        points = torch.where(better.view(-1, 1, 1, 1), tried, points)
    return points


def _losses(detector: Detector, images: Tensor, plan: _Plan) -> Tensor:
    """Return (P,): what is to become small, by what the deployed detector reports."""
    packed = _as_candidates(detector.detect(images), detector.info.classes)
    # One image after the other: a sum over a dimension may depend on the number of rows.
    each = [slice(row, row + 1) for row in range(len(images))]
    return torch.cat([plan.loss(packed[row], *(tensor[row] for tensor in plan.aligned)) for row in each])


def _rectangle(draws: Streams, query: int, where: Tensor) -> Tensor:
    """Return bool (N, 1, H, W): a random rectangle within each patch (N, H, W), which is one itself."""
    numbers = draws.uniform(2 * query, (2, 2)).sort(2).values
    inside = where
    for axis in (1, 2):
        along = where.any(3 - axis)
        first, count = along.int().argmax(1, keepdim=True), along.sum(1, keepdim=True)
        place = (torch.arange(along.shape[1], device=where.device) - first + 0.5) / count
        chosen = (place >= numbers[:, axis - 1, :1]) & (place <= numbers[:, axis - 1, 1:])
        inside = inside & chosen.unsqueeze(3 - axis)
    return inside.unsqueeze(1)


def _colour(draws: Streams, query: int, images: Tensor) -> Tensor:
    return draws.uniform(2 * query + 1, (images.shape[1], 1, 1)).round()


def _as_candidates(found: Detections, classes: int) -> Tensor:
    """Return detections as packed candidates, each sure of its own class alone."""
    scores = torch.zeros(*found.scores.shape, classes, device=found.scores.device)
    scores.scatter_(2, found.classes.clamp_min(0).unsqueeze(2), found.scores.unsqueeze(2))
    return torch.cat([found.boxes, scores], 2)


def _on_the_surest(detector: Detector, samples: Samples, area: float, ctx: Context) -> _Plan:
    """Plan a patch in the middle of the surest detection of each image."""
    clean = ctx.shelf.get(CLEAN_DETECTIONS)
    size = (samples.images.shape[2], samples.images.shape[3])
    sure, boxes = clean.scores[:, 0] >= detector.score, clean.boxes[:, 0]
    pieces = {
        row: piece
        for row in sure.nonzero().flatten().tolist()
        for piece in at_object(row, boxes[row].tolist(), area, size, _MIDDLE)
    }
    rows = torch.tensor(sorted(pieces), dtype=torch.int64, device=boxes.device)
    where = _pixels([pieces[row] for row in sorted(pieces)], samples.images)
    used = torch.ones(len(rows), 1, dtype=torch.bool, device=boxes.device)
    aligned = (boxes[rows].unsqueeze(1), clean.classes[rows, :1], used)
    return _Plan(rows, where, still_found(detector.score), aligned)


def _anywhere(detector: Detector, samples: Samples, area: float, ctx: Context) -> _Plan:
    """Plan a square at a random place of each image."""
    height, width = samples.images.shape[2:]
    draws = ctx.streams(samples.ids, "place").uniform(0, (2,)).tolist()
    pieces = [piece for row, each in enumerate(draws) for piece in anywhere(row, area, (height, width), each, 1)]
    rows = torch.tensor([piece.row for piece in pieces], dtype=torch.int64, device=samples.images.device)
    edges = [(one.left, one.top, one.left + one.width, one.top + one.height) for one in pieces]
    near = torch.tensor(edges, device=rows.device).view(-1, 1, 4) / torch.tensor(
        [width, height, width, height], device=rows.device
    )
    weights = torch.ones(len(rows), detector.info.classes, device=rows.device)
    return _Plan(rows, _pixels(pieces, samples.images), taken_for_many, (near, weights))


def _pixels(pieces: Sequence[Piece], images: Tensor) -> Tensor:
    """Return bool (P, H, W): where each piece lies."""
    where = torch.zeros(len(pieces), *images.shape[2:], dtype=torch.bool, device=images.device)
    for row, one in enumerate(pieces):
        where[row, one.top : one.top + one.height, one.left : one.left + one.width] = True
    return where


def _gone(found: Detections, plan: _Plan, score: float) -> Tensor:
    """Return bool (P,): whether nothing of its class is found any more where the surest object was."""
    boxes, classes, _ = plan.aligned
    near = overlaps(boxes, found.boxes).squeeze(1) >= _IN_ITS_PLACE
    return ~(near & (found.classes == classes) & (found.scores >= score)).any(1)


def _floods(found: Detections, plan: _Plan, score: float) -> Tensor:
    """Return bool (P,): whether so many detections lie on the patch that it is no chance."""
    near, _ = plan.aligned
    centres = (found.boxes[..., :2] + found.boxes[..., 2:]) / 2
    on = ((centres >= near[..., :2]) & (centres <= near[..., 2:])).all(2) & (found.scores >= score)
    return on.sum(1) >= _FLOOD
