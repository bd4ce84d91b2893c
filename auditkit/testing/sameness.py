"""Whether two runs of a check learned and found the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from auditkit.check import Findings, Lesson
from auditkit.precision import Matches
from auditkit.testing.holding import hold

__all__ = ["Outcome", "close", "hold_same", "permuted"]

# Sums of floats in another order may differ so much.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Outcome:
    """What a check learned, and what it found."""

    findings: Findings
    lesson: Lesson


def hold_same(wanted: Outcome, got: Outcome, situation: str) -> None:
    """Hold what was got to what was wanted."""
    hold(sorted(wanted.lesson) == sorted(got.lesson), f"{situation} taught arrays of other names")
    for name, array in wanted.lesson.items():
        hold(_equal(array, got.lesson[name]), f"{situation} taught another {name}")
    old, new = wanted.findings, got.findings
    hold(list(old.columns) == list(new.columns), f"{situation} gave other columns")
    pairs = {name: (column, new.columns[name]) for name, column in old.columns.items()}
    for name in ("forwards", "backwards"):
        pairs[name] = getattr(old, name), getattr(new, name)
    for name, (before, now) in pairs.items():
        if before is None or now is None:
            hold(before is now, f"{situation} gave or left out {name}")
            continue
        text = f"{situation} gave another {name}: {now.tolist()}; wanted {before.tolist()}"
        hold(_equal(before, now), text)
    hold(list(old.others) == list(new.others), f"{situation} gave other numbers about other images")
    for name, values in old.others.items():
        hold(_equal(np.sort(values), np.sort(new.others[name])), f"{situation} gave another {name}")
    hold(list(old.tallies) == list(new.tallies), f"{situation} gave other tallies")
    for name, tally in old.tallies.items():
        hold(close(tally.array, new.tallies[name].array), f"{situation} gave another tally {name}")
    hold(sorted(old.matches) == sorted(new.matches), f"{situation} gave other matches")
    for name, matches in old.matches.items():
        hold(_in_order(matches) == _in_order(new.matches[name]), f"{situation} gave other matches {name}")
    shown = [(exhibit.sample, exhibit.caption, exhibit.score) for exhibit in old.exhibits]
    shown_now = [(exhibit.sample, exhibit.caption, exhibit.score) for exhibit in new.exhibits]
    hold(shown == shown_now, f"{situation} gave other exhibits: {shown_now}; wanted {shown}")


def _equal(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> bool:
    return old.dtype == new.dtype and np.array_equal(old, new, equal_nan=old.dtype.kind == "f")


def close(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> bool:
    """Return whether two arrays are the same but for rounding."""
    return old.shape == new.shape and np.allclose(old, new, rtol=_ROUNDING, atol=0)


def permuted(findings: Findings, order: Sequence[int]) -> Findings:
    """Return findings as they are when the samples come in this order."""
    forwards, backwards = findings.forwards, findings.backwards
    return replace(
        findings,
        columns={name: column[order] for name, column in findings.columns.items()},
        forwards=None if forwards is None else forwards[order],
        backwards=None if backwards is None else backwards[order],
        matches={name: _moved(matches, order) for name, matches in findings.matches.items()},
    )


def _moved(matches: Matches, order: Sequence[int]) -> Matches:
    place = np.empty(len(order), dtype=np.int64)
    place[list(order)] = np.arange(len(order))
    return replace(matches, image=place[matches.image], object_image=place[matches.object_image])


def _in_order(matches: Matches) -> list[tuple[Any, ...]]:
    """Return matches as plain rows that do not depend on the order of the images."""
    found = zip(matches.image, matches.category, matches.score, matches.hit, matches.ignored, strict=True)
    rows: list[tuple[Any, ...]] = [
        (0, int(image), int(category), float(score), tuple(hit.tolist()), tuple(ignored.tolist()))
        for image, category, score, hit, ignored in found
    ]
    objects = zip(matches.object_image.tolist(), matches.object_category.tolist(), strict=True)
    return sorted([*rows, *((1, *pair) for pair in objects)])
