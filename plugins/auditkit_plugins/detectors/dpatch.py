"""A patch in the scene, on no object in particular: the detector takes it for many objects, or for one of a class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_DETECTIONS,
    Budgets,
    Capability,
    Context,
    Curve,
    Detections,
    Detector,
    ExecutionError,
    Exhibit,
    Findings,
    Lesson,
    Matches,
    Metric,
    Objects,
    Samples,
    Spec,
    Streams,
    ThreatModel,
    budget_text,
    found_objects,
    image_panel,
    mark,
    marks_of,
    match_objects,
    objects_of,
)
from auditkit_plugins.detectors.covering import PRINTS, Print, printed
from auditkit_plugins.detectors.losses import taken_for_many, taken_for_one
from auditkit_plugins.detectors.pieces import Piece, Sheet, plan_sheet
from auditkit_plugins.detectors.places import anywhere
from auditkit_plugins.detectors.texture import Goal, Scene, Texture, learned_tiles
from auditkit_plugins.detectors.training_pool import Pool, training_pool

__all__ = ["DPatch"]

_EXHIBITS = 8
_TRIES = 8
_LIGHT = 2
# A candidate whose centre lies this near a piece, as a share of the image's side, is taken to stem from it.
_NEAR = 0.05
# Classes that occur weigh more: only they count in average precision.
_WEIGHT_OF_SEEN = 3.0
_PRECISION = "Average precision over the share of the image that is covered"
_VANISH = "Objects that vanish, over the share of the image that is covered"
_WORDS = {"patch": "the patch", "noise": "noise", "plain": "plain grey"}


@dataclass(frozen=True)
class DPatch:
    """Learn a patch that is taken for objects wherever it lies; try it at random places of other images."""

    spec: ClassVar[Spec] = Spec(
        id="patch.dpatch",
        title="No printed patch in the scene floods the detector with false objects",
        why=(
            "A patch need not touch an object to harm a detector: laid anywhere into the scene, it is itself taken for "
            "objects, surer than those that are there. The patch is learned on one half of the images and judged at "
            "random places of the other half, beside noise and plain grey of the same size, which cover just as much."
        ),
        metrics=(
            Metric(
                "clean_ap50", "clean", "Average precision at an overlap of 0.5, held-out images", "precision", at=0.5
            ),
            Metric("ap50", "by_patch", "Average precision at an overlap of 0.5 with the patch", "precision", at=0.5),
            Metric("noise_ap50", "by_noise", "The same with noise in its place", "precision", at=0.5),
            Metric("plain_ap50", "by_plain", "The same with plain grey in its place", "precision", at=0.5),
            *(
                Metric(
                    f"{prefix}ap50_drop",
                    f"by_{kind}",
                    f"Average precision that {_WORDS[kind]} takes",
                    "precision",
                    against="clean",
                    at=0.5,
                )
                for prefix, kind in (("", "patch"), ("noise_", "noise"), ("plain_", "plain"))
            ),
            *(
                Metric(
                    f"{prefix}vanish_rate",
                    f"vanished_by_{kind}",
                    f"Found objects that vanish with {_WORDS[kind]} in the scene",
                    "ratio",
                    against="found",
                )
                for prefix, kind in (("", "patch"), ("noise_", "noise"), ("plain_", "plain"))
            ),
            Metric(
                "false_classes", "false_classes", "Classes that are falsely reported on the patch, an image", "mean"
            ),
            Metric(
                "target_rate", "on_target", "Placings with a target class, at which the patch is taken for it", "mean"
            ),
        ),
        needs=frozenset({Capability.GRADIENTS}),
        scope="dataset",
        curves=(
            *(
                Curve(
                    f"{prefix}ap50", _PRECISION, "share", figure=_PRECISION, line=_WORDS[kind], unattacked="clean_ap50"
                )
                for prefix, kind in (("", "patch"), ("noise_", "noise"), ("plain_", "plain"))
            ),
            *(
                Curve(f"{prefix}vanish_rate", _VANISH, "share", figure=_VANISH, line=_WORDS[kind], unattacked="")
                for prefix, kind in (("", "patch"), ("noise_", "noise"), ("plain_", "plain"))
            ),
        ),
        references=(
            "Liu et al. 2018 (DPatch), https://arxiv.org/abs/1806.02299",
            "Athalye et al. 2018 (expectation over transformation), https://arxiv.org/abs/1707.07397",
            "Sharif et al. 2016 (printability), https://doi.org/10.1145/2976749.2978392",
        ),
        presets={
            "standard": {"area": "0.1", "steps": 200},
            "full": {"area": "0.025, 0.05, 0.1", "steps": 1000},
        },
    )

    area: Budgets = (0.05, 0.1)
    """The largest share of the image that is covered; several give a patch each."""
    pieces: Annotated[int, Field(ge=1, le=16)] = 4
    """In how many squares of equal size the patch comes, each at a place of its own."""
    target: Annotated[int, Field(ge=0)] | None = None
    """The class that the patch shall be taken for, and nothing else be seen; None: for as many as can be."""
    steps: Annotated[int, Field(ge=1)] = 500
    """Steps of the optimisation, each on one mini-batch under fresh places and light."""
    mini_batch: Annotated[int, Field(ge=1)] = 16
    draws: Annotated[int, Field(ge=1)] = 2
    """In how many ways the patch is placed on each held-out image."""
    smoothness: Annotated[float, Field(ge=0)] = 0.0
    """The weight of the patch's total variation, beside a loss between -1 and 0."""
    printability: Annotated[float, Field(ge=0)] = 0.0
    """The weight of the distance to printable colours."""

    def __post_init__(self) -> None:
        """Refuse shares that are none.

        Raises:
            ValueError: an area is zero, or larger than the image.
        """
        if not all(0 < area <= 1 for area in self.area):
            raise ValueError("an area is a share of the image, larger than 0 and at most 1")

    @property
    def threat_models(self) -> tuple[ThreatModel, ...]:
        """What the attacker may do, one an area."""
        return tuple(ThreatModel("area", area) for area in self.area)

    def learn(self, detector: Detector, samples: Samples, ctx: Context) -> Lesson:
        """Return for each area the pieces, (P, C, S, S)."""
        assert ctx.search is not None  # noqa: S101 (declared in the spec)
        if self.target is not None and self.target >= detector.info.classes:
            raise ExecutionError(f"target is one of the {detector.info.classes} classes from 0; got {self.target}")
        pool = training_pool(detector, samples, ctx)
        loss = taken_for_many if self.target is None else taken_for_one(self.target)
        weights = _class_weights(objects_of(samples), detector)
        lesson = {}
        for area in self.area:
            side = self._side(area, samples.images)
            texture = Texture(side, self.pieces, self.steps, self.mini_batch, self.smoothness, self.printability)
            goal = Goal(partial(self._scene, pool, area, weights), loss)
            tiles = learned_tiles(ctx.search, pool, goal, texture, ctx, budget_text(area))
            lesson[f"patch@{budget_text(area)}"] = tiles.cpu().numpy()
        return lesson

    def _side(self, area: float, images: Tensor) -> int:
        size = (images.shape[2], images.shape[3])
        pieces = anywhere(0, area, size, [0.5] * 2 * _TRIES * self.pieces, self.pieces)
        if not pieces:
            raise ExecutionError(f"{self.pieces} pieces on {area:g} of an image of {size[0]}x{size[1]} have no pixel")
        return pieces[0].height

    def _scene(self, pool: Pool, area: float, weights: Tensor, rows: Tensor, streams: Streams, step: int) -> Scene:
        size = (pool.images.shape[2], pool.images.shape[3])
        numbers = 2 * _TRIES * self.pieces
        draws = streams.uniform(step, (numbers + _LIGHT,)).cpu().tolist()
        pieces = [
            _lit(piece, each[numbers:])
            for row, each in enumerate(draws)
            for piece in anywhere(row, area, size, each[:numbers], self.pieces)
        ]
        near = _surroundings(pieces, len(rows), size).to(weights.device)
        return Scene(pieces, (near, weights.expand(len(rows), -1)))

    def run(self, detector: Detector, samples: Samples, ctx: Context) -> Findings:
        """Put the patch, noise and plain grey at random places of images that were not learned from."""
        objects, clean = objects_of(samples), ctx.shelf.get(CLEAN_DETECTIONS)
        before = found_objects(clean, objects, detector.score)
        n, device = len(samples), samples.images.device
        columns = {"found": _counts(before)}
        annotated = [set(each.classes.tolist()) for each in objects]
        matches: dict[str, Matches] = {"clean": match_objects(clean, objects)}
        exhibits: tuple[Exhibit, ...] = ()
        for area in self.area:
            name = budget_text(area)
            tiles = torch.from_numpy(ctx.lesson[f"patch@{name}"]).to(device)
            for kind in PRINTS:
                found = [self._found(detector, samples, tiles, kind, area, draw, ctx) for draw in range(self.draws)]
                after = [found_objects(each, objects, detector.score) for each in found]
                lost = [[had & ~has for had, has in zip(before, each, strict=True)] for each in after]
                columns[f"vanished_by_{kind}@{name}"] = np.mean([_counts(each) for each in lost], axis=0)
                matches[f"by_{kind}@{name}"] = _over_draws(found, objects)
                if kind != "patch":
                    continue
                pieces = [self._pieces(samples, area, draw, ctx) for draw in range(self.draws)]
                said = [_said_of_patch(*pair, samples, detector.score) for pair in zip(found, pieces, strict=True)]
                false = [[len(kinds - own) for kinds, own in zip(each, annotated, strict=True)] for each in said]
                columns[f"false_classes@{name}"] = np.mean(false, axis=0)
                hits = [[self.target in kinds for kinds in each] for each in said]
                columns[f"on_target@{name}"] = np.mean(np.array(hits, dtype=np.float64), axis=0)
                exhibits = self._exhibits(detector, samples, tiles, area, found[0], lost[0], pieces[0], ctx)
            ctx.progress(n // len(self.area))
        passes = np.full(n, 1 + len(self.area) * len(PRINTS) * self.draws, dtype=np.int64)
        return Findings(columns, exhibits, forwards=passes, backwards=np.zeros_like(passes), matches=matches)

    def _found(
        self, detector: Detector, samples: Samples, tiles: Tensor, kind: Print, area: float, draw: int, ctx: Context
    ) -> Detections:
        ctx.check_time()
        return detector.detect(self._patched(samples, tiles, kind, area, draw, ctx))

    def _patched(self, samples: Samples, tiles: Tensor, kind: Print, area: float, draw: int, ctx: Context) -> Tensor:
        sheet = self._sheet(samples, tiles, area, draw, ctx)
        return printed(samples.images, samples.ids, sheet, kind, tiles, draw, ctx)

    def _sheet(self, samples: Samples, tiles: Tensor, area: float, draw: int, ctx: Context) -> Sheet:
        pieces = [piece for own in self._pieces(samples, area, draw, ctx) for piece in own]
        return plan_sheet(pieces, samples.images, tiles.shape[3])

    def _pieces(self, samples: Samples, area: float, draw: int, ctx: Context) -> list[list[Piece]]:
        """Return the pieces on each image: at the same places whatever is printed."""
        size = (samples.images.shape[2], samples.images.shape[3])
        draws = ctx.streams(samples.ids, "places").uniform(draw, (2 * _TRIES * self.pieces,)).tolist()
        return [anywhere(row, area, size, each, self.pieces) for row, each in enumerate(draws)]

    def _exhibits(
        self,
        detector: Detector,
        samples: Samples,
        tiles: Tensor,
        area: float,
        found: Detections,
        lost: Sequence[Tensor],
        pieces: Sequence[Sequence[Piece]],
        ctx: Context,
    ) -> tuple[Exhibit, ...]:
        """Show the images with most objects lost, then most false ones, before and after."""
        objects, clean = objects_of(samples), ctx.shelf.get(CLEAN_DETECTIONS)
        patched = self._patched(samples, tiles, "patch", area, 0, ctx)
        size = (samples.images.shape[2], samples.images.shape[3])
        false = [
            sum(each.tone == "wrong" for each in marks_of(found, row, objects[row], detector.score, ctx.class_name))
            for row in range(len(samples))
        ]
        harm = [int(each.sum()) + count for each, count in zip(lost, false, strict=True)]
        ranked = sorted(range(len(samples)), key=lambda row: (-harm[row], samples.ids[row]))
        exhibits = []
        for row in [row for row in ranked if harm[row]][:_EXHIBITS]:
            around = tuple(mark(torch.tensor(_edges(piece, size)), "", "patch") for piece in pieces[row])
            before = marks_of(clean, row, objects[row], detector.score, ctx.class_name)
            after = marks_of(found, row, objects[row], detector.score, ctx.class_name, lost[row])
            panels = (
                image_panel("clean", samples.images[row], before),
                image_panel("with the patch", patched[row], (*around, *after)),
                image_panel("the pieces, side by side", _side_by_side(tiles)),
            )
            caption = f"{int(lost[row].sum())} objects vanish and {false[row]} false ones are seen with the patch"
            exhibits.append(Exhibit(samples.ids[row], caption, float(harm[row]), panels))
        return tuple(exhibits)


def _side_by_side(tiles: Tensor) -> Tensor:
    """Return the pieces (P, C, S, S) as one picture (C, S', S''), about as wide as it is high."""
    columns = math.ceil(math.sqrt(len(tiles)))
    missing = -len(tiles) % columns
    filled = torch.cat([tiles, tiles.new_ones(missing, *tiles.shape[1:])])
    return torch.cat([torch.cat(list(row), 2) for row in torch.split(filled, columns)], 1)


def _class_weights(objects: Sequence[Objects], detector: Detector) -> Tensor:
    """Return float32 (1, K): how much each class counts."""
    weights = torch.ones(detector.info.classes, device=detector.device)
    for each in objects:
        weights[each.classes.to(detector.device)] = _WEIGHT_OF_SEEN
    return weights.unsqueeze(0)


def _lit(piece: Piece, draws: Sequence[float]) -> Piece:
    """Return the piece in another light."""
    return Piece(
        piece.row,
        piece.top,
        piece.left,
        piece.height,
        piece.width,
        1 + 0.2 * (draws[0] - 0.5),
        0.1 * (draws[1] - 0.5),
        piece.tile,
    )


def _edges(piece: Piece, size: tuple[int, int]) -> list[float]:
    """Return left, top, right and bottom as shares of an image of this size."""
    height, width = size
    return [
        piece.left / width,
        piece.top / height,
        (piece.left + piece.width) / width,
        (piece.top + piece.height) / height,
    ]


def _surroundings(pieces: Sequence[Piece], n: int, size: tuple[int, int]) -> Tensor:
    """Return float32 (n, J, 4): around each piece, left, top, right and bottom of where its candidates are."""
    own: list[list[list[float]]] = [[] for _ in range(n)]
    for piece in pieces:
        left, top, right, bottom = _edges(piece, size)
        own[piece.row].append([left - _NEAR, top - _NEAR, right + _NEAR, bottom + _NEAR])
    return torch.tensor(own)


def _counts(each: Sequence[Tensor]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array([int(one.sum()) for one in each], dtype=np.int64)


def _over_draws(found: Sequence[Detections], objects: Sequence[Objects]) -> Matches:
    """Return the matches of all draws together: an image counts as often as it was looked at."""
    everything = Detections(
        torch.cat([each.boxes for each in found]),
        torch.cat([each.scores for each in found]),
        torch.cat([each.classes for each in found]),
    )
    return match_objects(everything, tuple(objects) * len(found), list(range(len(objects))) * len(found))


def _said_of_patch(
    found: Detections, pieces: Sequence[Sequence[Piece]], samples: Samples, score: float
) -> list[set[int]]:
    """Return for each image the classes of which something is reported on a piece."""
    size = (samples.images.shape[2], samples.images.shape[3])
    flat = [piece for own in pieces for piece in own]
    near = _surroundings(flat, len(samples), size).to(found.boxes.device)
    centres = (found.boxes[..., :2] + found.boxes[..., 2:]) / 2
    inside = (centres.unsqueeze(2) >= near[:, None, :, :2]) & (centres.unsqueeze(2) <= near[:, None, :, 2:])
    on = inside.all(3).any(2) & (found.scores >= score)
    return [set(classes[here].tolist()) for classes, here in zip(found.classes, on, strict=True)]
