"""What is to become small when objects shall vanish, or when a patch shall be taken for many objects."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from auditkit import Candidates, overlaps

__all__ = ["still_found", "taken_for_many", "taken_for_one"]

_LEAST = 1e-6
# Candidates that overlap an object by this speak for it; half would leave those that take over when the best is gone.
_SPEAKS_FOR = 0.4
# Below half of what counts as found, a score has no more to lose.
_ENOUGH = 0.5
# Where another class takes over, the object vanishes, too; but under the next light the first may be back. So this way
# is taken only where it is by far the shorter. (FastestDet, 1000 steps, 15 % of the box: 62 % of the held-out objects
# vanish; 51 % where only the other class counts, 54 % where only silence does.)
_CLASS_GAP, _CLASS_COST = 0.2, 2.5
# How sharply the surest candidate of a class stands for it: between the mean (0) and the largest.
_SHARPNESS = 16.0
_SURE_ENOUGH = 0.95


def still_found(score: float) -> Callable[..., Tensor]:
    """Return a loss of packed candidates (N, M, 4 + K), boxes (N, J, 4), classes (N, J) and used (N, J), to (N,).

    It is the sum over the objects of an image of how far their candidates are from being silent: for each the smaller
    of two distances, that of its logarithmic score to half of `score`, and that to where another class takes over.
    """

    def loss(packed: Tensor, boxes: Tensor, classes: Tensor, used: Tensor) -> Tensor:
        candidates = Candidates(packed)
        speaks = overlaps(boxes, candidates.boxes.detach().clamp(0, 1)) >= _SPEAKS_FOR
        logs = candidates.scores.clamp_min(_LEAST).log().transpose(1, 2)
        own = logs.gather(1, classes.unsqueeze(2).expand(-1, -1, logs.shape[2]))
        silent = (own - math.log(_ENOUGH * score)).relu()
        overtaken = _CLASS_COST * (own - _best_other(logs, classes) + _CLASS_GAP).relu()
        counted = speaks & used.unsqueeze(2)
        return (torch.minimum(silent, overtaken) * counted).sum((1, 2))

    return loss


def _best_other(logs: Tensor, classes: Tensor) -> Tensor:
    """Return (N, J, M): of each candidate, the largest of `logs` (N, K, M) but for that of each object's class."""
    if logs.shape[1] == 1:
        return logs.new_full((1,), math.log(_LEAST)).expand(len(logs), classes.shape[1], logs.shape[2])
    top, which = logs.topk(2, 1)
    is_own = which[:, :1] == classes.unsqueeze(2)
    return torch.where(is_own, top[:, 1:2], top[:, :1])


def taken_for_many(packed: Tensor, near: Tensor, weights: Tensor) -> Tensor:
    """Return (N,): minus the weighted mean over all classes of how sure the surest candidate on a patch is.

    Takes packed candidates (N, M, 4 + K), the rectangles (N, J, 4) near which a candidate's centre counts as on a
    patch, and a weight for each class (N, K). That of a class is a mean of its candidates' scores, the surest counting
    most.
    """
    scores = Candidates(packed).scores
    on = _on(packed, near)
    logs = scores.clamp_min(_LEAST).log().masked_fill(~on.unsqueeze(2), math.log(_LEAST))
    share = (_SHARPNESS * logs).softmax(1)
    best = (share * scores * on.unsqueeze(2)).sum(1).clamp_max(_SURE_ENOUGH)
    return -(best * weights).sum(1) / weights.sum(1)


def taken_for_one(target: int) -> Callable[..., Tensor]:
    """Return a loss of packed candidates (N, M, 4 + K) and rectangles (N, J, 4), to (N,): DPatch with a target.

    The patch shall be the one object, of class `target`: minus the logarithm of the surest such candidate on it, and
    what is sure of itself elsewhere.
    """

    def loss(packed: Tensor, near: Tensor, weights: Tensor) -> Tensor:
        scores, on = Candidates(packed).scores, _on(packed, near)
        own = scores[..., target].clamp_min(_LEAST).log().masked_fill(~on, math.log(_LEAST))
        wanted = -torch.logsumexp(_SHARPNESS * own, 1) / _SHARPNESS
        elsewhere = (scores.amax(2) * ~on).square().sum(1) / (~on).sum(1).clamp_min(1)
        return wanted + elsewhere

    return loss


def _on(packed: Tensor, near: Tensor) -> Tensor:
    """Return bool (N, M): the candidates whose centre lies in one of the rectangles (N, J, 4)."""
    boxes = Candidates(packed).boxes.detach()
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    low, high = near[:, None, :, :2], near[:, None, :, 2:]
    inside = (centre.unsqueeze(2) >= low) & (centre.unsqueeze(2) <= high)
    return inside.all(3).any(2)
