"""Objects that wear a print: one at a time, each in an image of its own, or all of an image at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit import Context, Detections, Detector, Samples, Streams
from auditkit_plugins.detectors.covering import Print, printed
from auditkit_plugins.detectors.pieces import Piece, plan_sheet
from auditkit_plugins.detectors.places import NUMBERS_A_PLACE, Layout, Place, at_object
from auditkit_plugins.detectors.vanishing import Target

__all__ = ["Wardrobe"]

_MOST_OBJECTS = 10_000


@dataclass(frozen=True)
class Wardrobe:
    """The images, the texture, and how it is worn."""

    detector: Detector
    samples: Samples
    tiles: Tensor
    """float32 (1, C, S, S)."""
    layout: Layout
    place: Place
    ctx: Context

    def one_by_one(self, targets: Sequence[Target], kind: Print, area: float, draw: int) -> Detections:
        """Return what is found in T images, in each of which one target wears a print."""
        parts = [self.detector.detect(self.samples.images[:0])]
        for at in range(0, len(targets), self.ctx.batch):
            self.ctx.check_time()
            some = targets[at : at + self.ctx.batch]
            parts.append(self.detector.detect(self.alone(some, kind, area, draw)))
        return Detections(
            torch.cat([part.boxes for part in parts]),
            torch.cat([part.scores for part in parts]),
            torch.cat([part.classes for part in parts]),
        )

    def alone(self, targets: Sequence[Target], kind: Print, area: float, draw: int) -> Tensor:
        """Return (T, C, H, W): for each target its image, in which it alone wears a print."""
        rows = [target.row for target in targets]
        images = self.samples.images[torch.tensor(rows, dtype=torch.int64, device=self.samples.images.device)]
        pieces = self._pieces(targets, range(len(targets)), area, draw)
        return self._with(images, tuple(self.samples.ids[row] for row in rows), pieces, kind, draw)

    def together(self, targets: Sequence[Target], kind: Print, area: float) -> Tensor:
        """Return (N, C, H, W): all images, in which every target wears a print."""
        pieces = self._pieces(targets, [target.row for target in targets], area, 0)
        return self._with(self.samples.images, self.samples.ids, pieces, kind, 0)

    def _with(self, images: Tensor, ids: tuple[str, ...], pieces: Sequence[Piece], kind: Print, draw: int) -> Tensor:
        sheet = plan_sheet(pieces, images, self.tiles.shape[3])
        return printed(images, ids, sheet, kind, self.tiles, draw, self.ctx)

    def _pieces(self, targets: Sequence[Target], rows: Sequence[int], area: float, draw: int) -> list[Piece]:
        """Return the pieces that targets wear on images of these rows: at the same places whatever is printed."""
        if not targets:
            return []
        height, width = self.samples.images.shape[2:]
        streams = self.ctx.streams([self.samples.ids[target.row] for target in targets], "places")
        steps = torch.tensor([draw * _MOST_OBJECTS + target.number for target in targets])
        draws = Streams(streams.keys).uniform(steps.to(streams.keys.device), (NUMBERS_A_PLACE,)).tolist()
        return [
            piece
            for row, target, numbers in zip(rows, targets, draws, strict=True)
            for piece in at_object(row, target.box.tolist(), area, (height, width), numbers, self.layout, self.place)
        ]
