"""The four cells: images that an attack was tried on, by which of two networks it fooled; their table and verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from auditkit import Table, Tally, exact_mcnemar, proportion

__all__ = ["cell_columns", "cell_table", "cell_tally", "clean_verdict", "verdict"]

Bools = npt.NDArray[np.bool_]

_CELLS = ("none", "bounded_only", "original_only", "both")
_TITLES = ("attacked by", "images", "none", "bounded only", "original only", "both", "McNemar p")
# A difference that chance makes less often than this counts as one.
_SIGNIFICANT = 0.05


def cell_columns(name: str, attacked: Bools, original: Bools, bounded: Bools) -> dict[str, Bools]:
    """Return a boolean column for each cell: which of the `attacked` images fool which network; all are (N,)."""
    chosen = (~original & ~bounded, ~original & bounded, original & ~bounded, original & bounded)
    return {f"{name}_{cell}": attacked & own for cell, own in zip(_CELLS, chosen, strict=True)}


def cell_tally(name: str, columns: Mapping[str, npt.NDArray[Any]]) -> Tally:
    """Return how many images are in each cell: none, bounded only, original only, both."""
    return Tally(np.array([np.count_nonzero(columns[f"{name}_{cell}"]) for cell in _CELLS], dtype=np.int64))


def cell_table(counts: Mapping[str, npt.NDArray[Any]]) -> Table:
    """Return the table of the attacks, each with the counts of its four cells."""
    return Table(
        "Attacked images by the network that they fool (share, with its 95 % interval)",
        _TITLES,
        tuple((attack, *_row(*map(int, cells))) for attack, cells in counts.items()),
    )


def _row(none: int, bounded: int, original: int, both: int) -> tuple[str | int | float, ...]:
    n = none + bounded + original + both
    shares = tuple(_share(count, n) for count in (none, bounded, original, both))
    return n, *shares, _rounded(exact_mcnemar(original, bounded))


def _share(count: int, n: int) -> str:
    if not n:
        return "-"
    estimate = proportion(count, n)
    return f"{estimate.value:.1%} ({_interval(estimate.low, estimate.high)})"


def _interval(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f} %"


def _rounded(p: float) -> float:
    return float(f"{p:.2g}")


def clean_verdict(clean: npt.NDArray[Any]) -> str:
    """Return what the bounds cost on clean images, as the end of a sentence.

    `clean` (4,) counts the images that are right with neither network, with the bounded one only, with the original one
    only, and with both.
    """
    neither, gained, lost, both = map(int, clean)
    n = neither + gained + lost + both
    if not n:
        return "no image was judged"
    points = 100 * (lost - gained) / n
    word = "costs" if points >= 0 else "adds"
    return (
        f"{word} {abs(points):.1f} points of clean accuracy ({(lost + both) / n:.1%} before, {(gained + both) / n:.1%} "
        f"after, n = {n}, McNemar p = {exact_mcnemar(lost, gained):.2g})"
    )


def verdict(attack: str, cells: npt.NDArray[Any]) -> str:
    """Return what the bounds buy against an attack, in a sentence; `cells` (4,) are counted as by `cell_tally`."""
    _, new, removed, both = map(int, cells)
    if not removed + both + new:
        return f"there is no {attack} success to remove"
    p = exact_mcnemar(removed, new)
    if p >= _SIGNIFICANT:
        meaning = "no benefit that chance would not explain"
    else:
        meaning = "a benefit" if removed > new else "harm"
    share = ""
    if removed + both:
        estimate = proportion(removed, removed + both)
        share = f" ({estimate.value:.1%}, 95 % interval {_interval(estimate.low, estimate.high)})"
    return (
        f"removes {removed} of {removed + both} {attack} successes{share} and opens {new} new ones: "
        f"{meaning} (McNemar p = {p:.2g})"
    )
