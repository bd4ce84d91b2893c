"""Whether a decision hangs on one small region: scores over a sweep of covers, larger meaning more suspicious.

The idea is that of Horváth and Egervári (2018): cover parts of the image and watch the decision. `dissent` is what
Minority Reports (McCoyd et al. 2020) thresholds, as the authors of PatchCleanser (Xiang et al. 2022) read it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CONSISTENCY_SCORES", "Consistency", "consistency"]

CONSISTENCY_SCORES = ("flip", "drop", "dissent", "margin", "contrast", "agreement", "locality")
"""The scores, in the order in which `Consistency.scores` holds them."""

# A spread of the margins below this is rounding, and divides nothing.
_LEAST_SPREAD = 1e-3


@dataclass(frozen=True)
class Consistency:
    """What a sweep of K covers says about N images."""

    scores: Tensor
    """float64 (N, 7): a column for each of `CONSISTENCY_SCORES`."""
    lost: Tensor
    """float64 (N, K): what each cover takes from the margin of the decision."""
    covered: Tensor
    """float64 (N, K, C): the probabilities under each cover."""
    decision: Tensor
    """int64 (N,): the class of the image as it is."""
    window: Tensor
    """int64 (N,): the cover under which the decision loses most of its margin."""
    label: Tensor
    """int64 (N,): what most dissenting covers decide for, each weighed by its confidence; the decision where none
    dissents."""

    def score(self, name: str) -> Tensor:
        """Return one score, float64 (N,)."""
        return self.scores[:, CONSISTENCY_SCORES.index(name)]

    def least_sure(self, labels: Tensor) -> Tensor:
        """Return float64 (N,): the lowest probability that any cover leaves to the class `labels` (N,).

        Let it lie above t for an image without a patch, let some cover hide any patch, and let what shows there not
        depend on the image. Then a patch that leads to another class leaves a cover that still gives `labels` more than
        t: `dissent` exceeds t. So whoever raises an alarm beyond t misses no patch on such an image.
        """
        return self.covered.gather(2, labels.view(-1, 1, 1).expand(-1, self.covered.shape[1], 1)).amin((1, 2))


def consistency(logits: Tensor, sweep: Tensor) -> Consistency:
    """Return the scores of N images from their logits (N, C) and those of their K covered forms (N, K, C).

    flip: 1 where some cover changes the decision. drop: the most that a cover takes from the probability of the
    decision. dissent: the highest probability that any cover gives to another class. margin: the most that a cover
    takes from the decision's margin, in logits. contrast: the logarithm of one more than how far that lies above the
    median cover, in median absolute deviations. agreement: the share of all dissenting confidence that speaks for one
    class, 0 where none dissents. locality: minus the share of covers that take more than half as much as the strongest.
    """
    logits, sweep = logits.double(), sweep.double()
    decided = logits.argmax(1)
    before, after = torch.softmax(logits, 1), torch.softmax(sweep, 2)
    own = decided.view(-1, 1, 1).expand(-1, sweep.shape[1], 1)
    kept = after.gather(2, own).squeeze(2)
    lost = _margins(logits.unsqueeze(1), own[:, :1]) - _margins(sweep, own)
    strongest, window = lost.max(1)
    median = lost.median(1).values
    spread = (lost - median.unsqueeze(1)).abs().median(1).values.clamp_min(_LEAST_SPREAD)
    votes = _votes(after, sweep.argmax(2), decided)
    most, label = votes.max(1)
    total = votes.sum(1)
    flips = total > 0
    scores = torch.stack(
        [
            flips.double(),
            (before.gather(1, decided.unsqueeze(1)) - kept).amax(1),
            after.scatter(2, own, 0.0).amax((1, 2)),
            strongest,
            torch.log1p((strongest - median) / spread),
            torch.where(flips, most / torch.where(flips, total, 1.0), 0.0),
            -(lost > strongest.unsqueeze(1) / 2).double().mean(1),
        ],
        1,
    )
    return Consistency(scores, lost, after, decided, window, torch.where(flips, label, decided))


def _margins(logits: Tensor, own: Tensor) -> Tensor:
    """Return (N, K): how far the decided class lies above the best other one."""
    return (logits.gather(2, own) - logits.scatter(2, own, -torch.inf).amax(2, keepdim=True)).squeeze(2)


def _votes(after: Tensor, chosen: Tensor, decided: Tensor) -> Tensor:
    """Return float64 (N, C): the confidence of the covers that decide for each class but the image's own."""
    confidence = after.gather(2, chosen.unsqueeze(2)).squeeze(2)
    dissents = chosen != decided.unsqueeze(1)
    votes = after.new_zeros(after.shape[0], after.shape[2])
    return votes.scatter_add(1, chosen, torch.where(dissents, confidence, 0.0))
