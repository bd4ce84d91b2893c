"""Intervals that hold at every look at once, so that an audit may stop as soon as they have decided."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from auditkit.stats import CONFIDENCE, Estimate, proportion

__all__ = ["ANYTIME_CHANGE", "ANYTIME_SHARE", "SHARES", "anytime_change", "anytime_share"]

ANYTIME_SHARE = "anytime-valid, mixture over shares"
ANYTIME_CHANGE = "anytime-valid, mixture over bets"

# What a bet stakes, as shares of the most that it may: small ones find small differences, large ones find sure things.
_STAKES = np.geomspace(0.002, 0.99, 60)
_HALVINGS = 60


def anytime_share(successes: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate a share with an interval that holds the true one at every number of images at once.

    A share p is ruled out once the likelihood of what was seen, averaged over all shares on the other side, is more
    than `2 / (1 - confidence)` times that under p: were p the truth, this ratio would be a martingale that starts at 1,
    which ever gets so far with a chance of at most half of `1 - confidence` (Ville 1939; Robbins 1970, Howard, Ramdas,
    McAuliffe and Sekhon 2021). So each end misses the truth with that chance, whenever one stops to look.

    Raises:
        ValueError: `n` is not positive or `successes` lies outside 0..n.
    """
    if not 0 <= successes <= n or n <= 0:
        raise ValueError(f"a share needs 0 <= successes <= n and n > 0, not {successes} of {n}")
    value = successes / n
    limit = math.log(2 / (1 - confidence))
    low = _end(lambda share: _evidence_above(share, successes, n) > limit, value, 0.0)
    high = 1 - _end(lambda share: _evidence_above(share, n - successes, n) > limit, 1 - value, 0.0)
    return Estimate(value=value, low=low, high=high, n=n, method=ANYTIME_SHARE)


SHARES = {"Clopper-Pearson": proportion, ANYTIME_SHARE: anytime_share}
"""What estimates a share from successes and images, by the name of its method."""


def _evidence_above(share: float, successes: int, n: int) -> float:
    """Return the log of how much likelier the data are under a larger share, drawn evenly, than under this one."""
    if share <= 0:
        return math.inf if successes else -math.inf
    rest = n - successes
    above = float(special.betaincc(successes + 1, rest + 1, share))
    if above <= 0:
        return -math.inf
    likelihood = successes * math.log(share) + (rest * math.log1p(-share) if rest else 0.0)
    return float(special.betaln(successes + 1, rest + 1)) + math.log(above) - math.log1p(-share) - likelihood


def anytime_change(lost: int, gained: int, n: int, confidence: float = CONFIDENCE) -> Estimate:
    """Estimate how much a share fell between two runs on the same images, with an interval that holds at every look.

    `lost` of the `n` images counted in the first run only, `gained` in the second only. The mean of the differences,
    each -1, 0 or 1, is ruled out once betting against it would have multiplied one's capital by `2 / (1 - confidence)`:
    60 stakes are bet at once, and were it the true mean, no way of betting would win (Waudby-Smith and Ramdas 2024).

    Raises:
        ValueError: the counts do not fit together.
    """
    if min(lost, gained) < 0 or n <= 0 or lost + gained > n:
        raise ValueError(f"a change needs lost + gained <= n and n > 0, not {lost}, {gained} and {n}")
    value = (lost - gained) / n
    limit = math.log(2 / (1 - confidence))
    low = _end(lambda change: _winnings(change, lost, gained, n) > limit, value, -1.0)
    high = -_end(lambda change: _winnings(change, gained, lost, n) > limit, -value, -1.0)
    return Estimate(value=value, low=low, high=high, n=n, method=ANYTIME_CHANGE)


def _winnings(change: float, lost: int, gained: int, n: int) -> float:
    """Return the log of the capital that betting on a larger change than this one has made out of 1."""
    if change <= -1:
        return math.inf if n > gained else -math.inf
    stakes = _STAKES / (1 + change)
    capital = (
        lost * np.log1p(stakes * (1 - change))
        + gained * np.log1p(-stakes * (1 + change))
        + (n - lost - gained) * np.log1p(-stakes * change)
    )
    return float(special.logsumexp(capital) - math.log(len(_STAKES)))


def _end(ruled_out: Callable[[float], bool], inside: float, outside: float) -> float:
    """Return where values stop being ruled out between `outside` and the estimate, on the safe side."""
    if inside <= outside or not ruled_out(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        if ruled_out(middle):
            outside = middle
        else:
            inside = middle
    return outside
