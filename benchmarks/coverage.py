"""How often the intervals of auditkit.separation hold the truth, for groups of images whose truth is known.

    python -m benchmarks.coverage [--repeats 1000]

Each line is a pair of group sizes and a true value; each number the share of the repeats, in per cent, whose interval
holds it, for one shape of the scores (below). For the AUROC, DeLong's interval on the logit scale stands beside it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from auditkit.separation import auroc, fpr_at_tpr, tpr_at_fpr
from auditkit.stats import Estimate

Scores: TypeAlias = npt.NDArray[np.float64]
Draw: TypeAlias = Callable[[np.random.Generator, int, int], tuple[Scores, Scores]]

SIZES = ((20, 20), (50, 50), (10, 200), (100, 600), (600, 100))
AUROCS = (0.6, 0.9, 0.97, 0.99)
RATES = (0.01, 0.05)


def normal(truth: float, own: float, other: float) -> Draw:
    """Positives with standard deviation `own`, negatives with `other`."""
    shift = special.ndtri(truth) * math.hypot(own, other)
    return lambda g, p, m: (g.normal(shift, own, p), g.normal(0, other, m))


def exponential(truth: float, side: int) -> Draw:
    """The curve of two exponential distributions, or (with `side` -1) its mirror image."""
    ratio = truth / (1 - truth)
    means = (ratio, 1.0) if side > 0 else (1.0, ratio)
    return lambda g, p, m: (side * g.exponential(means[0], p), side * g.exponential(means[1], m))


def misplaced(truth: float, group: int, share: float) -> Draw:
    """Normal scores, but for a few images of one group: far on the wrong side, they make up `share` of all errors."""
    rare = share * (1 - truth)
    draw = normal(truth / (1 - rare), 1, 1) if share < 1 else lambda g, p, m: (g.normal(99, 1, p), g.normal(0, 1, m))

    def drawn(g: np.random.Generator, p: int, m: int) -> tuple[Scores, Scores]:
        groups = draw(g, p, m)
        hit = g.random(len(groups[group])) < rare
        groups[group][hit] = (-999, 999)[group]
        return groups

    return drawn


def shapes(truth: float) -> dict[str, Draw]:
    """Return ways to draw two groups with this AUROC."""
    return {
        "normal": normal(truth, 1, 1),
        "wide p": normal(truth, 3, 1),
        "wide n": normal(truth, 1, 3),
        "expon": exponential(truth, 1),
        "mirror": exponential(truth, -1),
        "rare p": misplaced(truth, 0, 0.6),
        "rare n": misplaced(truth, 1, 0.6),
        "only p": misplaced(truth, 0, 1),
        "only n": misplaced(truth, 1, 1),
    }


def delong(positives: Scores, negatives: Scores) -> Estimate:
    """Estimate the AUROC with DeLong's interval on the logit scale; none has a width where no pair is out of order."""
    found = auroc(positives, negatives)
    above = np.searchsorted(np.sort(negatives), positives) / len(negatives)
    below = 1 - np.searchsorted(np.sort(positives), negatives) / len(positives)
    error = math.sqrt(above.var(ddof=1) / len(positives) + below.var(ddof=1) / len(negatives))
    if not 0 < found.value < 1:
        return found.model_copy(update={"low": found.value, "high": found.value})
    half = stats.norm.ppf(0.975) * error / (found.value * (1 - found.value))
    low, high = (float(special.expit(special.logit(found.value) + side * half)) for side in (-1, 1))
    return found.model_copy(update={"low": low, "high": high})


def coverage(measure: Callable[[Scores, Scores], Estimate], draw: Draw, p: int, m: int, truth: float, n: int) -> float:
    """Return the share of `n` repeats, in per cent, whose interval holds the truth."""
    g = np.random.default_rng([p, m, round(1000 * truth)])
    found = [measure(*draw(g, p, m)) for _ in range(n)]
    return 100 * sum(one.low <= truth <= one.high for one in found) / n


def true_rates(draw: Draw, rate: float) -> tuple[float, float]:
    """Return the true positive rate at false alarms of `rate`, and the false alarms at hits of 1 - `rate`."""
    positives, negatives = (np.sort(group) for group in draw(np.random.default_rng(0), 2_000_000, 2_000_000))
    hits = (positives > negatives[-1 - int(rate * len(negatives))]).mean()
    alarms = (negatives >= positives[int(rate * len(positives))]).mean()
    return float(hits), float(alarms)


def line(name: str, values: Mapping[str, Any]) -> None:
    """Print one row of shares."""
    print(f"  {name:34}" + "".join(f"{value:8.1f}" for value in values.values()), flush=True)


def main() -> None:
    """Print the coverage of every interval."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    n = parser.parse_args().repeats
    print(f"coverage in per cent, of {n} repeats each\n  {'':34}" + "".join(f"{name:>8}" for name in shapes(0.9)))
    for p, m in SIZES:
        for truth in AUROCS:
            for name, measure in (("AUROC", auroc), ("  DeLong, logit", delong)):
                found = {shape: coverage(measure, draw, p, m, truth, n) for shape, draw in shapes(truth).items()}
                line(f"{name} {truth}, {p} and {m} images", found)
    for rate in RATES:
        truths = {shape: true_rates(draw, rate) for shape, draw in shapes(0.9).items()}
        for p, m in SIZES:
            for at, (name, measure) in enumerate((("TPR at FPR", tpr_at_fpr), ("FPR at TPR", fpr_at_tpr))):
                where = rate if at == 0 else 1 - rate
                found = {
                    shape: coverage(lambda a, b: measure(a, b, where), draw, p, m, truths[shape][at], n)  # noqa: B023
                    for shape, draw in shapes(0.9).items()
                }
                line(f"{name} {where}, {p} and {m} images", found)


if __name__ == "__main__":
    main()
