"""A printed texture under which objects vanish: learned on some images, judged on the objects of others."""

from __future__ import annotations

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
    Exhibit,
    Findings,
    Lesson,
    Matches,
    Metric,
    Samples,
    Spec,
    Streams,
    budget_text,
    image_panel,
    marks_of,
    match_objects,
    objects_of,
    overlaps,
)
from auditkit_plugins.detectors.covering import PRINTS
from auditkit_plugins.detectors.losses import still_found
from auditkit_plugins.detectors.pieces import Piece
from auditkit_plugins.detectors.places import NUMBERS_A_PLACE, Layout, Place, at_object, touch
from auditkit_plugins.detectors.texture import Goal, Scene, Texture, learned_tiles
from auditkit_plugins.detectors.training_pool import Pool, training_pool
from auditkit_plugins.detectors.vanishing import Target, all_targets, found_targets, gone, renamed, tally
from auditkit_plugins.detectors.wearing import Wardrobe

__all__ = ["Vanish"]

_EXHIBITS = 8
_MOST_OBJECTS = 8
_SMALLEST = 4
_IN_ITS_PLACE = 0.5
_REPEATED, _ENLARGED = 2, 4
_SHOWN = "Objects that vanish, over the share of their box that is covered"
_SHOWN_PRECISION = "Average precision with the texture on every object, over the share that is covered"


@dataclass(frozen=True)
class Vanish:
    """Learn a texture under which objects vanish, on any of them; try it on objects of other images, one by one."""

    spec: ClassVar[Spec] = Spec(
        id="patch.vanish",
        title="No printed texture on an object makes the detector lose it",
        why=(
            "A print on a shirt, a sticker on a sign: something small that its wearer carries, and the detector no "
            "longer sees the wearer. The texture is learned on one half of the images, on whatever objects are there, "
            "and judged on objects that the detector finds in the other half, one object at a time, under places that "
            "it has not seen. What a print of noise or plain grey of the same size does is the covering; the rest is "
            "aim. An attacker who makes a print for one particular object can do more than this."
        ),
        metrics=(
            Metric(
                "vanish_rate",
                "vanished_by_patch",
                "Found objects that vanish under the texture",
                "ratio",
                against="found",
            ),
            Metric(
                "noise_vanish_rate", "vanished_by_noise", "The same under a print of noise", "ratio", against="found"
            ),
            Metric("plain_vanish_rate", "vanished_by_plain", "The same under plain grey", "ratio", against="found"),
            Metric(
                "rename_rate",
                "renamed_by_patch",
                "Found objects that are taken for something else under the texture",
                "ratio",
                against="found",
            ),
            Metric(
                "clean_ap50", "clean", "Average precision at an overlap of 0.5, held-out images", "precision", at=0.5
            ),
            Metric("ap50", "by_patch", "The same with the texture on every object", "precision", at=0.5),
            Metric("noise_ap50", "by_noise", "The same with noise on every object", "precision", at=0.5),
            Metric("plain_ap50", "by_plain", "The same with plain grey on every object", "precision", at=0.5),
            Metric(
                "ap50_drop",
                "by_patch",
                "Average precision that the texture takes",
                "precision",
                against="clean",
                at=0.5,
            ),
        ),
        needs=frozenset({Capability.GRADIENTS}),
        scope="dataset",
        curves=(
            *(
                Curve(name, _SHOWN, "share of the box", figure=_SHOWN, line=line, unattacked="")
                for name, line in (
                    ("vanish_rate", "the texture"),
                    ("noise_vanish_rate", "noise"),
                    ("plain_vanish_rate", "plain grey"),
                )
            ),
            *(
                Curve(
                    name,
                    _SHOWN_PRECISION,
                    "share of the box",
                    figure=_SHOWN_PRECISION,
                    line=line,
                    unattacked="clean_ap50",
                )
                for name, line in (("ap50", "the texture"), ("noise_ap50", "noise"), ("plain_ap50", "plain grey"))
            ),
        ),
        references=(
            "Thys et al. 2019, https://arxiv.org/abs/1904.08653",
            "Eykholt et al. 2018 (stickers on stop signs, for detectors), https://arxiv.org/abs/1807.07769",
            "Athalye et al. 2018 (expectation over transformation), https://arxiv.org/abs/1707.07397",
            "Sharif et al. 2016 (printability), https://doi.org/10.1145/2976749.2978392",
        ),
        presets={
            "standard": {"area": "0.1, 0.2", "steps": 150},
            "full": {"steps": 1000},
        },
    )

    area: Budgets = (0.05, 0.1, 0.15, 0.2)
    """The largest share of an object's box that is covered; one texture is learned for all."""
    layout: Layout = "one"
    """One rectangle in the middle of the box, or four, in the middle of each quarter."""
    place: Place = "on"
    """On the object, or beside it, touching its box."""
    steps: Annotated[int, Field(ge=1)] = 400
    """Steps of the optimisation, each on one mini-batch under fresh places and light."""
    mini_batch: Annotated[int, Field(ge=1)] = 16
    side: Annotated[int, Field(ge=1)] = 32
    """Texels of the tile on each side: it repeats, at one texel a pixel, on whatever is covered."""
    draws: Annotated[int, Field(ge=1)] = 1
    """How many places are tried on each held-out object."""
    smoothness: Annotated[float, Field(ge=0)] = 0.0
    """The weight of the tile's total variation, beside a loss that counts in natural logarithms of scores."""
    printability: Annotated[float, Field(ge=0)] = 0.0
    """The weight of the distance to printable colours."""

    def __post_init__(self) -> None:
        """Refuse shares that are none.

        Raises:
            ValueError: an area is zero, or larger than the box.
        """
        if not all(0 < area <= 1 for area in self.area):
            raise ValueError("an area is a share of an object's box, larger than 0 and at most 1")

    def learn(self, detector: Detector, samples: Samples, ctx: Context) -> Lesson:
        """Return the tile, (1, C, S, S)."""
        assert ctx.search is not None  # noqa: S101 (declared in the spec)
        pool = training_pool(detector, samples, ctx)
        worn = _with_objects(pool)
        texture = Texture(self.side, 1, self.steps, self.mini_batch, self.smoothness, self.printability)
        if not len(worn):
            return {"tile": np.zeros((1, samples.images.shape[1], self.side, self.side), dtype=np.float32)}
        goal = Goal(partial(self._scene, worn), still_found(detector.score))
        return {"tile": learned_tiles(ctx.search, worn, goal, texture, ctx, "texture").cpu().numpy()}

    def _scene(self, pool: Pool, rows: Tensor, streams: Streams, step: int) -> Scene:
        """Put pieces of some size on up to eight objects of each image, in random order, none on another's."""
        size = (pool.images.shape[2], pool.images.shape[3])
        found = pool.found.take(rows)
        used = found.scores > 0
        most = max(int(used.sum(1).max()), 1)
        draws = streams.uniform(step, (most, NUMBERS_A_PLACE + 2)).cpu().tolist()
        boxes, counts = found.boxes.cpu().tolist(), used.sum(1).tolist()
        low, high = min(self.area), max(self.area)
        pieces: list[Piece] = []
        worn = torch.zeros(len(rows), most, dtype=torch.bool)
        for row, count in enumerate(counts):
            own: list[Piece] = []
            for at in sorted(range(count), key=lambda number: draws[row][number][NUMBERS_A_PLACE]):
                area = low + (high - low) * draws[row][at][NUMBERS_A_PLACE + 1]
                placed = at_object(row, boxes[row][at], area, size, draws[row][at], self.layout, self.place, lit=True)
                if _is_worth_learning(placed) and not any(touch(first, second) for first in placed for second in own):
                    own += placed
                    worn[row, at] = True
                if int(worn[row].sum()) == _MOST_OBJECTS:
                    break
            pieces += own
        classes = found.classes[:, :most].clamp_min(0)
        return Scene(pieces, (found.boxes[:, :most], classes, worn.to(found.boxes.device)))

    def run(self, detector: Detector, samples: Samples, ctx: Context) -> Findings:
        """Put the texture, noise and plain grey on every object that is found, one at a time, and on all at once."""
        tile = torch.from_numpy(ctx.lesson["tile"]).to(samples.images.device)
        wardrobe = Wardrobe(detector, samples, tile, self.layout, self.place, ctx)
        targets, everything = found_targets(detector, samples, ctx), all_targets(samples)
        n = len(samples)
        columns = {"found": tally(torch.ones(len(targets)), targets, n)}
        matches: dict[str, Matches] = {"clean": match_objects(ctx.shelf.get(CLEAN_DETECTIONS), objects_of(samples))}
        exhibits: tuple[Exhibit, ...] = ()
        for area in self.area:
            name = budget_text(area)
            for kind in PRINTS:
                found = [wardrobe.one_by_one(targets, kind, area, draw) for draw in range(self.draws)]
                lost = torch.stack([gone(each, targets, detector.score).double() for each in found])
                columns[f"vanished_by_{kind}@{name}"] = tally(lost.mean(0), targets, n)
                if kind == "patch":
                    other = torch.stack([renamed(each, targets, detector.score).double() for each in found])
                    columns[f"renamed_by_patch@{name}"] = tally(other.mean(0), targets, n)
                    exhibits = _exhibits(wardrobe, targets, found[0], lost[0] > 0, area)
                worn = detector.detect(wardrobe.together(everything, kind, area))
                matches[f"by_{kind}@{name}"] = match_objects(worn, objects_of(samples))
            ctx.progress(n // len(self.area))
        passes = 1 + len(self.area) * len(PRINTS) * (1 + self.draws * columns["found"])
        return Findings(
            {name: column.cpu().numpy() for name, column in columns.items()},
            exhibits,
            forwards=passes.cpu().numpy().astype(np.int64),
            backwards=np.zeros(n, dtype=np.int64),
            matches=matches,
        )


def _is_worth_learning(pieces: Sequence[Piece]) -> bool:
    """Return whether a texture can be seen on these pieces; smaller ones would only teach to be of one colour."""
    return bool(pieces) and min(min(piece.height, piece.width) for piece in pieces) >= _SMALLEST


def _with_objects(pool: Pool) -> Pool:
    """Return the images in which anything is found."""
    rows = (pool.found.scores > 0).any(1).nonzero().flatten()
    return Pool(pool.images[rows], pool.found.take(rows))


def _exhibits(
    wardrobe: Wardrobe, targets: Sequence[Target], found: Detections, lost: Tensor, area: float
) -> tuple[Exhibit, ...]:
    """Show the objects that were surest before they vanished, one an image."""
    detector, samples, ctx = wardrobe.detector, wardrobe.samples, wardrobe.ctx
    clean = ctx.shelf.get(CLEAN_DETECTIONS)
    sure = {at: _surest(clean, targets[at], detector.score) for at in lost.nonzero().flatten().tolist()}
    ranked = sorted(sure, key=lambda at: (-sure[at], samples.ids[targets[at].row], targets[at].number))
    best: dict[int, int] = {}
    for at in ranked:
        best.setdefault(targets[at].row, at)
    exhibits = []
    for row, at in list(best.items())[:_EXHIBITS]:
        target, objects = targets[at], objects_of(samples)[row]
        worn = wardrobe.alone([target], "patch", area, 0)[0]
        only = torch.zeros(len(objects), dtype=torch.bool)
        only[target.number] = True
        what = ctx.class_name(target.category)
        panels = (
            image_panel("clean", samples.images[row], marks_of(clean, row, objects, detector.score, ctx.class_name)),
            image_panel(
                f"{what} with the texture", worn, marks_of(found, at, objects, detector.score, ctx.class_name, only)
            ),
            image_panel("the texture, as it is printed", _print_out(wardrobe.tiles[0])),
        )
        caption = f"{what} vanishes under a texture on {area:.0%} of its box"
        exhibits.append(Exhibit(samples.ids[row], caption, sure[at], panels))
    return tuple(exhibits)


def _surest(clean: Detections, target: Target, score: float) -> float:
    """Return how sure the detector was of a target."""
    own = clean.take(slice(target.row, target.row + 1))
    near = overlaps(target.box.view(1, 1, 4), own.boxes)[0, 0] >= _IN_ITS_PLACE
    return float((own.scores[0] * near * (own.classes[0] == target.category)).amax())


def _print_out(tile: Tensor) -> Tensor:
    """Return the tile (C, S, S) repeated, enlarged texel by texel."""
    return tile.repeat(1, _REPEATED, _REPEATED).repeat_interleave(_ENLARGED, 1).repeat_interleave(_ENLARGED, 2)
