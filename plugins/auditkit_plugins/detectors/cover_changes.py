"""What covering a part of an image changes for a detector elsewhere: objects that appear, and objects that vanish."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit import Detections, Detector, Fill, Windows, areas, cover_sweep, filling, overlaps

__all__ = ["Changes", "cover_changes"]

_CORNERS = 4
_IN_ITS_PLACE = 0.5


@dataclass(frozen=True)
class Changes:
    """What K covers change in what a detector says about N images.

    Attributes:
        appears: float32 (N, K): by how much the score of a detection rises under a cover, at most; one that was not
            there had the score 0.
        vanishes: float32 (N, K): by how much one falls, at most.
    """

    appears: Tensor
    vanishes: Tensor

    @property
    def strongest(self) -> Tensor:
        """float32 (N, K): the larger of both."""
        return torch.maximum(self.appears, self.vanishes)


def cover_changes(
    detector: Detector,
    images: Tensor,
    windows: Windows,
    fill: Fill,
    hidden: float,
    pause: Callable[[], None] = lambda: None,
) -> Changes:
    """Return what each window, covered, changes in images (N, C, H, W).

    Detections of whose box a window hides more than the share `hidden` do not count for it. Two detections are of one
    object if they are of one class and overlap by half (intersection over union).
    """
    if not len(images):
        return Changes(images.new_zeros(0, len(windows)), images.new_zeros(0, len(windows)))
    swept = cover_sweep(
        lambda covered: _flat(detector.detect(covered)), images, windows, filling(fill, windows), detector.batch, pause
    )
    places = swept.view(len(images), len(windows), -1, _CORNERS + 2)
    before = _flat(detector.detect(images)).view(len(images), -1, _CORNERS + 2)
    corners = torch.tensor(windows.corners, device=images.device, dtype=images.dtype)
    covers = _rectangles(corners, windows)
    rows = [_one_image(*pair, covers, hidden) for pair in zip(before, places, strict=True)]
    return Changes(torch.stack([row for row, _ in rows]), torch.stack([row for _, row in rows]))


def _flat(found: Detections) -> Tensor:
    """Return float32 (N, D * 6): of each detection its box, its score and its class."""
    numbers = [found.boxes, found.scores.unsqueeze(2), found.classes.unsqueeze(2).to(found.boxes.dtype)]
    return torch.cat(numbers, 2).flatten(1)


def _rectangles(corners: Tensor, windows: Windows) -> Tensor:
    """Return float32 (K, 4): left, top, right and bottom of the windows as shares of the image."""
    top, left = corners.unbind(1)
    edges = [left, top, left + windows.width, top + windows.height]
    sides = [windows.image_width, windows.image_height] * 2
    return torch.stack([edge / side for edge, side in zip(edges, sides, strict=True)], 1)


def _one_image(before: Tensor, after: Tensor, covers: Tensor, hidden: float) -> tuple[Tensor, Tensor]:
    """Return (K,) each: the largest rise and the largest fall, from (D, 6) and (K, D, 6)."""
    had = before.unsqueeze(0).expand(len(after), -1, -1)
    return _unexplained(after, had, covers, hidden), _unexplained(had, after, covers, hidden)


def _unexplained(these: Tensor, those: Tensor, covers: Tensor, hidden: float) -> Tensor:
    """Return (K,): by how much one of `these` detections (K, D, 6) is surer than the surest of `those` like it."""
    boxes, scores, classes = these[..., :_CORNERS], these[..., _CORNERS], these[..., _CORNERS + 1]
    like = overlaps(boxes, those[..., :_CORNERS]) >= _IN_ITS_PLACE
    like &= classes.unsqueeze(2) == those[:, None, :, _CORNERS + 1]
    explained = (like * those[:, None, :, _CORNERS]).amax(2)
    seen = _hidden_share(boxes, covers) <= hidden
    return ((scores - explained) * seen).amax(1).clamp_min(0)


def _hidden_share(boxes: Tensor, covers: Tensor) -> Tensor:
    """Return (K, D): the share of each box (K, D, 4) that its cover (K, 4) hides."""
    low = torch.maximum(boxes[..., :2], covers[:, None, :2])
    high = torch.minimum(boxes[..., 2:], covers[:, None, 2:])
    common = (high - low).clamp_min(0).prod(2)
    return common / areas(boxes).clamp_min(torch.finfo(boxes.dtype).tiny)
