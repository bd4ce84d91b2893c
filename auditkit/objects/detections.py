"""What a detector says: candidates, of which there are many to an object, and detections, of which there is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit.objects.boxes import overlaps

__all__ = ["Candidates", "Detections", "Suppression", "join_detections", "pack"]

NOTHING = -1
"""The class of an empty place among detections."""

# More candidates than this above the least score are no detector's honest answer; the best are looked at.
_MOST_CANDIDATES = 1000
_CORNERS = 4
_PAIRS_ON_CPU, _PAIRS_ON_GPU = 1 << 18, 1 << 26


@dataclass(frozen=True)
class Candidates:
    """All that a detector considers, before the many around one object become one; differentiable.

    `packed` is float32 (N, M, 4 + K): left, top, right, bottom as shares of the image's width and height, which may
    reach beyond it, then a score in [0, 1] for each class. A place that is not used has the score 0 for each.
    """

    packed: Tensor

    @property
    def boxes(self) -> Tensor:
        """float32 (N, M, 4)."""
        return self.packed[..., :_CORNERS]

    @property
    def scores(self) -> Tensor:
        """float32 (N, M, K)."""
        return self.packed[..., _CORNERS:]


@dataclass(frozen=True)
class Detections:
    """The objects that a detector reports in N images, at most D in each, the surest first.

    Attributes:
        boxes: float32 (N, D, 4), left, top, right, bottom as shares of the image's width and height, inside it; 0 in
            a place that is not used.
        scores: float32 (N, D) in [0, 1]; 0 in a place that is not used.
        classes: int64 (N, D), class indices; -1 in a place that is not used.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: Tensor | slice) -> Detections:
        """Return the detections on some of the images."""
        return Detections(self.boxes[rows], self.scores[rows], self.classes[rows])

    def at_least(self, score: float) -> Detections:
        """Return the same, but that places with a lower score count as not used."""
        kept = self.scores >= score
        return Detections(self.boxes * kept.unsqueeze(2), self.scores * kept, self.classes.where(kept, NOTHING))


@dataclass(frozen=True)
class Suppression:
    """How candidates become detections: each stands for its best class, and the surest silences those like it."""

    overlap: float | None = 0.45
    """Two candidates of one class that overlap by more (intersection over union) are one object; None: they are
    detections already."""
    least: float = 0.01
    """Candidates must be surer than this."""
    most: int = 100
    """How many detections an image may have, as in COCO's average precision."""

    def __call__(self, candidates: Candidates) -> Detections:
        """Return the detections: non-maximum suppression class by class, then boxes are cut off at the image's edges.

        The order in which equally sure candidates are looked at is that of the network.
        """
        scores, classes = candidates.scores.max(2)
        scores = scores.where(scores > self.least, torch.zeros_like(scores))
        used = int((scores > 0).sum(1).max()) if scores.numel() else 0
        kept = max(1, min(used, _MOST_CANDIDATES))
        scores, order = _largest(scores, kept)
        boxes = _gathered(candidates.boxes, order)
        classes = classes.gather(1, order).where(scores > 0, NOTHING)
        if self.overlap is not None:
            scores = scores * _stays(boxes, classes, self.overlap)
        scores, order = _largest(scores, self.most)
        classes = classes.gather(1, order).where(scores > 0, NOTHING)
        # What lies in unused places would else depend on the other images of the batch.
        boxes = _gathered(boxes, order).clamp(0, 1) * (scores > 0).unsqueeze(2)
        return _filled(Detections(boxes, scores, classes), self.most)


def pack(boxes: Tensor, scores: Tensor) -> Tensor:
    """Return float32 (N, M, 4 + K) for boxes (N, M, 4) and scores (N, M, K); see `Candidates`."""
    return torch.cat([boxes, scores], 2).float()


def join_detections(parts: Sequence[Detections]) -> Detections:
    """Return the detections of several batches as those of one."""
    return Detections(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.classes for part in parts]),
    )


def _largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    found, order = scores.sort(dim=1, descending=True, stable=True)
    return found[:, :count], order[:, :count]


def _gathered(boxes: Tensor, order: Tensor) -> Tensor:
    return boxes.gather(1, order.unsqueeze(2).expand(-1, -1, _CORNERS))


def _stays(boxes: Tensor, classes: Tensor, most: float) -> Tensor:
    """Return bool (N, M): the candidates, the surest first, that no surer one which stays overlaps too much.

    Images with about as many candidates are looked at together, few enough for a processor's cache.
    """
    counts = (classes != NOTHING).sum(1)
    order = counts.argsort(descending=True)
    stays = torch.zeros_like(classes, dtype=torch.bool)
    pairs = _PAIRS_ON_CPU if boxes.device.type == "cpu" else _PAIRS_ON_GPU
    at, numbers = 0, counts[order].tolist()
    while at < len(numbers) and numbers[at]:
        used = numbers[at]
        rows = order[at : at + max(1, pairs // used**2)]
        stays[rows, :used] = _unsilenced(boxes[rows, :used], classes[rows, :used], most)
        at += len(rows)
    return stays


def _unsilenced(boxes: Tensor, classes: Tensor, most: float) -> Tensor:
    """Return bool (N, M): the candidates, the surest first, that no surer one which stays overlaps too much.

    Greedy suppression is the one solution of `a candidate stays unless a surer one stays that is like it`. Starting
    from all, each round settles at least one candidate more, and hardly ever are there more than ten.
    """
    same = classes.unsqueeze(2) == classes.unsqueeze(1)
    like = ((overlaps(boxes, boxes) > most) & same).triu(1)
    stays = torch.ones_like(classes, dtype=torch.bool)
    while True:
        silenced = (like & stays.unsqueeze(2)).any(1)
        if torch.equal(stays, ~silenced):
            return stays
        stays = ~silenced


def _filled(found: Detections, places: int) -> Detections:
    missing = places - found.scores.shape[1]
    if missing <= 0:
        return found
    n = len(found)
    return Detections(
        torch.cat([found.boxes, found.boxes.new_zeros(n, missing, _CORNERS)], 1),
        torch.cat([found.scores, found.scores.new_zeros(n, missing)], 1),
        torch.cat([found.classes, found.classes.new_full((n, missing), NOTHING)], 1),
    )
