"""Detections of what is not there: how to cause them, and how many there are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from auditkit import Candidates, Detections, Objects, areas, overlaps

__all__ = ["false_detections", "not_yet_false"]

_LEAST = 1e-6
_ON_AN_OBJECT = 0.4
_SURE_ENOUGH = 0.95
_IN_ITS_PLACE = 0.5


def not_yet_false(packed: Tensor, boxes: Tensor, classes: Tensor, used: Tensor) -> Tensor:
    """Return (N,): how far candidates that lie on no object are from being sure of one, a mean over all candidates.

    Takes packed candidates (N, M, 4 + K), and the boxes (N, J, 4) of objects and which of them are used (N, J). It
    counts the logarithm of the score of each candidate's best class, up to 0.95.
    """
    candidates = Candidates(packed)
    near = overlaps(boxes, candidates.boxes.detach().clamp(0, 1)) >= _ON_AN_OBJECT
    elsewhere = ~(near & used.unsqueeze(2)).any(1)
    best = candidates.scores.amax(2).clamp_min(_LEAST).log()
    return ((math.log(_SURE_ENOUGH) - best).relu() * elsewhere).sum(1) / elsewhere.shape[1]


def false_detections(found: Detections, objects: Sequence[Objects], score: float) -> Tensor:
    """Return int64 (N,): the detections, at least as sure as `score`, that no annotated object of their class explains.

    An object explains a detection that it overlaps by half (intersection over union), a crowd one of which half lies in
    it.
    """
    counts = []
    for row, each in enumerate(objects):
        boxes = found.boxes[row]
        sure = found.scores[row] >= score
        same = found.classes[row].unsqueeze(0) == each.classes.unsqueeze(1)
        near = overlaps(each.boxes, boxes) >= _IN_ITS_PLACE
        crowded = _share_inside(boxes, each.boxes) >= _IN_ITS_PLACE
        explained = same & (near | (crowded & each.crowd.unsqueeze(1)))
        counts.append((sure & ~explained.any(0)).sum())
    return torch.stack(counts) if counts else found.classes.new_zeros(0)


def _share_inside(boxes: Tensor, crowds: Tensor) -> Tensor:
    """Return (K, D): the share of each of the boxes (D, 4) that lies in each of the crowds (K, 4)."""
    overlap, area = overlaps(crowds, boxes), areas(boxes)
    # The overlap is common / (both - common), so the common area can be had from it.
    common = overlap * (areas(crowds).unsqueeze(1) + area) / (1 + overlap)
    return common / area.clamp_min(torch.finfo(area.dtype).tiny)
