"""How well a score tells two groups of images apart: exact for any scores, each value with its interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from auditkit.stats import CONFIDENCE, Estimate, proportion

__all__ = ["auroc", "fpr_at_tpr", "roc", "tpr_at_fpr"]

Scores = npt.NDArray[Any]


def auroc(positives: Scores, negatives: Scores, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate the chance that a score of `positives` (P,) lies above one of `negatives` (M,), ties counting half.

    The value is Mann and Whitney's, from mid-ranks in float64, so scores of any size and spacing are exact. The
    interval is that of DeLong et al. 1988 on the logit scale.

    Raises:
        ValueError: a group is empty, or holds NaN.
    """
    positives, negatives = _checked(positives), _checked(negatives)
    above = _placements(positives, negatives)
    value = float(above.mean())
    n = len(positives) + len(negatives)
    below = 1 - _placements(negatives, positives)
    variance = _variance(above) / len(positives) + _variance(below) / len(negatives)
    if not 0 < value < 1 or variance == 0:
        low = proportion(min(len(positives), len(negatives)), min(len(positives), len(negatives)), confidence).low
        return Estimate(
            value=value,
            low=low if value == 1 else 0.0,
            high=1 - low if value == 0 else 1.0,
            n=n,
            method="Clopper-Pearson of the smaller group",
        )
    half = float(special.ndtri((1 + confidence) / 2)) * math.sqrt(variance) / (value * (1 - value))
    centre = float(special.logit(value))
    low, high = (float(special.expit(centre + side * half)) for side in (-1, 1))
    return Estimate(value=value, low=low, high=high, n=n, method="DeLong, logit")


def tpr_at_fpr(positives: Scores, negatives: Scores, fpr: float, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate the share of `positives` (P,) above the smallest threshold with at most `fpr` of `negatives` (M,) above.

    Raises:
        ValueError: a group is empty or holds NaN, or `fpr` lies outside [0, 1].
    """
    positives, negatives = _checked(positives), _checked(negatives)
    threshold = _threshold(negatives, fpr)
    return proportion(int((positives > threshold).sum()), len(positives), confidence)


def fpr_at_tpr(positives: Scores, negatives: Scores, tpr: float, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate the share of `negatives` (M,) at or above the largest threshold that `tpr` of `positives` (P,) reach.

    Raises:
        ValueError: a group is empty or holds NaN, or `tpr` lies outside (0, 1].
    """
    positives, negatives = _checked(positives), _checked(negatives)
    if not 0 < tpr <= 1:
        raise ValueError(f"a true positive rate lies in (0, 1], not {tpr}")
    threshold = np.sort(positives)[::-1][math.ceil(tpr * len(positives)) - 1]
    return proportion(int((negatives >= threshold).sum()), len(negatives), confidence)


def roc(positives: Scores, negatives: Scores, points: int = 24) -> list[tuple[float, Estimate]]:
    """Return up to `points` pairs of false alarms (a share of `negatives`) and hits among `positives`, up to (1, 1).

    Raises:
        ValueError: a group is empty, or holds NaN.
    """
    positives, negatives = _checked(positives), _checked(negatives)
    thresholds = np.unique(np.concatenate([positives, negatives]))[::-1]
    ordered_negatives, ordered_positives = np.sort(negatives), np.sort(positives)
    alarms = len(negatives) - np.searchsorted(ordered_negatives, thresholds, side="left")
    hits = len(positives) - np.searchsorted(ordered_positives, thresholds, side="left")
    best = dict(zip(alarms.tolist(), hits.tolist(), strict=True))
    best = {0: max((h for a, h in zip(alarms.tolist(), hits.tolist(), strict=True) if a == 0), default=0)} | best
    known = sorted(best)
    chosen = np.unique(np.linspace(0, len(known) - 1, min(points, len(known))).round().astype(int))
    return [(known[at] / len(negatives), proportion(best[known[at]], len(positives))) for at in chosen.tolist()]


def _checked(scores: Scores) -> npt.NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0 or np.isnan(values).any():
        raise ValueError("two groups can be told apart only where each has at least one score, and no NaN")
    return values


def _placements(of: npt.NDArray[np.float64], among: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return, for each value of `of`, the share of `among` that lies below it, ties counting half."""
    ordered = np.sort(among)
    below = np.searchsorted(ordered, of, side="left")
    up_to = np.searchsorted(ordered, of, side="right")
    share: npt.NDArray[np.float64] = (below + up_to) / (2 * len(among))
    return share


def _variance(values: npt.NDArray[np.float64]) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def _threshold(negatives: npt.NDArray[np.float64], fpr: float) -> float:
    if not 0 <= fpr <= 1:
        raise ValueError(f"a false positive rate lies in [0, 1], not {fpr}")
    allowed = math.floor(fpr * len(negatives) + 1e-9)
    return float(np.sort(negatives)[::-1][allowed]) if allowed < len(negatives) else -math.inf
