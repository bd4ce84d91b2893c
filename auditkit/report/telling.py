"""The picture for the first screen: one image before and after the attack that decided, or that left least."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from auditkit.report.reason import deciding_gate
from auditkit.report.tasks import task_words
from auditkit.report.text import split_metric
from auditkit.report.worst import worst_cases
from auditkit.result import CheckRecord, ExhibitRecord, PanelRecord, Result, Verdict

__all__ = ["Telling", "telling_exhibit"]

_SHOWN = 2


@dataclass(frozen=True)
class Telling:
    """An exhibit of two images, clean and attacked, the check that it comes from, and why it is the one to see."""

    check: CheckRecord
    exhibit: ExhibitRecord
    why: str


def telling_exhibit(result: Result, arrays: Mapping[str, npt.NDArray[Any]]) -> Telling | None:
    """Return the most telling pair of images, None where no check has stored one.

    A requirement that is not met speaks first, then the attack that left least, then any other. Of a
    check the first exhibit is taken: checks sort theirs by how bad they are.
    """
    for check, why in _candidates(result):
        for exhibit in check.exhibits:
            images = [panel for panel in exhibit.panels if panel.kind == "image" and panel.array in arrays]
            panels = _alike(images, arrays)
            if len(panels) >= _SHOWN:
                pair = exhibit.model_copy(update={"panels": tuple(panels[:_SHOWN])})
                return Telling(check, pair, why)
    return None


def _alike(images: Sequence[PanelRecord], arrays: Mapping[str, npt.NDArray[Any]]) -> list[PanelRecord]:
    """Return all of them, or those of the shape of one with boxes: the picture of a patch alone tells no story."""
    marked = {arrays[panel.array].shape for panel in images if panel.marks}
    return [panel for panel in images if not marked or arrays[panel.array].shape in marked]


def _candidates(result: Result) -> Iterator[tuple[CheckRecord, str]]:
    gate = deciding_gate(result)
    if gate is not None and (check := result.check(split_metric(gate.metric)[0])) is not None:
        undecided = gate.verdict is Verdict.INCONCLUSIVE
        yield check, f"From the check whose requirement is {'undecided' if undecided else 'not met'}"
    # Of equal values the smaller budget comes first, for it is the harder to excuse.
    for case in sorted(worst_cases(result), key=lambda case: case.estimate.value):
        if (check := result.check(case.check)) is not None:
            yield check, f"From the attack that left least of the {task_words(result).quality}"
    for check in result.checks:
        yield check, "From the gallery of a check"
