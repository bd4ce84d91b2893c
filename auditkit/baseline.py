"""How far each metric moved between two audits of the same images: compared image by image, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from auditkit.anytime import anytime_change
from auditkit.paired import paired_mean, paired_median, paired_share
from auditkit.requirements import Gate
from auditkit.result import CheckRecord, ColumnRecord, Result
from auditkit.stats import Estimate

__all__ = ["Measured", "Pairs", "change_for", "compare_with", "fall", "pairs_of", "reversed_change"]

_DIGEST = "digest"


@dataclass(frozen=True)
class Measured:
    """A stored audit, as far as comparing needs it: its result, and its table with one row an image."""

    result: Result
    table: Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Pairs:
    """A metric's values in two audits, for the N images that count in both."""

    before: npt.NDArray[np.float64]
    after: npt.NDArray[np.float64]
    kind: Literal["share", "mean", "median"]
    anytime: bool
    """Whether one of the audits could stop early, so that an interval must hold at every look."""


def compare_with(base: Measured | None, new: Measured) -> Callable[[Gate], Estimate | str] | None:
    """Return what tells how far a metric moved since the baseline; None without one."""
    return partial(change_for, base=base, new=new) if base is not None else None


def change_for(gate: Gate, base: Measured, new: Measured) -> Estimate | str:
    """Return how far a gate's metric fell (or rose, if that is what it bounds), or why that cannot be said."""
    pairs = pairs_of(base, new, gate.check, gate.metric)
    if isinstance(pairs, str):
        return pairs
    fell = fall(pairs)
    return reversed_change(fell) if gate.change == "rise" else fell


def fall(pairs: Pairs) -> Estimate:
    """Return by how much the metric fell, with an interval."""
    match pairs.kind:
        case "share":
            lost = int((pairs.before > pairs.after).sum())
            gained = int((pairs.before < pairs.after).sum())
            return (anytime_change if pairs.anytime else paired_share)(lost, gained, len(pairs.before))
        case "median":
            return paired_median(pairs.before, pairs.after)
        case _:
            return paired_mean(pairs.before, pairs.after)


def reversed_change(fell: Estimate) -> Estimate:
    """Return a fall as a rise, or a rise as a fall."""
    # Adding zero makes minus zero a plain one.
    return fell.model_copy(update={"value": 0.0 - fell.value, "low": 0.0 - fell.high, "high": 0.0 - fell.low})


def pairs_of(base: Measured, new: Measured, key: str, metric: str) -> Pairs | str:
    """Return the values of a metric, image by image, or why the two audits cannot be compared on it."""
    before, after = base.result.check(key), new.result.check(key)
    if before is None or after is None:
        return f"the {'baseline' if before is None else 'audit'} holds no check {key}"
    if before.status != "done" or after.status != "done":
        return f"in the {'baseline' if before.status != 'done' else 'audit'} {key} was not run to its end"
    if (difference := _difference(base.result, new.result, before, after)) is not None:
        return f"not comparable with the baseline: {difference}"
    columns = (before.metric_columns.get(metric), after.metric_columns.get(metric))
    if columns[0] is None or columns[0] != columns[1]:
        return (
            f"{key} has no value of {metric} for each image in both audits, so they cannot be compared image by image"
        )
    rows = _same_images(base, new)
    if isinstance(rows, str):
        return f"not comparable with the baseline: {rows}"
    counted = _counted(base, key, columns[0])[rows[0]] & _counted(new, key, columns[0])[rows[1]]
    if not counted.any():
        return f"no image counts for {metric} of {key} in both audits"
    name = f"{key}/{columns[0].column}"
    first, second = (side.table[name][at][counted].astype(np.float64) for side, at in ((base, rows[0]), (new, rows[1])))
    anytime = any(bool(side.result.settings.get("until_decided")) for side in (base, new))
    return Pairs(first, second, columns[0].kind, anytime)


def _difference(base: Result, new: Result, before: CheckRecord, after: CheckRecord) -> str | None:
    """Return what, besides the model, was not the same."""
    was_seed, is_seed = base.settings.get("seed"), new.settings.get("seed")
    if was_seed != is_seed:
        return f"its seed is {was_seed}, this one {is_seed}"
    if (before.id, before.version) != (after.id, after.version):
        return f"it ran {before.id} version {before.version}, this one {after.id} version {after.version}"
    for name in sorted({*before.options, *after.options}):
        was, now = before.options.get(name), after.options.get(name)
        if was != now:
            return f"there {before.key}.{name} was {was}, here it is {now}"
    return None


def _same_images(base: Measured, new: Measured) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]] | str:
    """Return where the images lie that both audits saw, or why they are not the same."""
    if _DIGEST not in base.table or _DIGEST not in new.table:
        return "the images have no digests that would show that they are the same"
    names, at, there = np.intersect1d(base.table["id"], new.table["id"], assume_unique=True, return_indices=True)
    if not len(names):
        return "they have no image in common"
    other = np.flatnonzero(base.table[_DIGEST][at] != new.table[_DIGEST][there])
    if len(other):
        return (
            f"{len(other)} of {len(names)} images of the same name differ in pixels or label, such as {names[other[0]]}"
        )
    return at, there


def _counted(side: Measured, key: str, column: ColumnRecord) -> npt.NDArray[np.bool_]:
    """Return the images that the check was judged on and that count for the metric."""
    counted: npt.NDArray[np.bool_] = np.ones(len(side.table["id"]), dtype=bool)
    for name in ("held_out", column.among):
        if name is not None and f"{key}/{name}" in side.table:
            counted &= side.table[f"{key}/{name}"].astype(bool)
    return counted
