"""The picture for the first screen: one image before and after the attack that decided, or that left least."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from auditkit.report.reason import deciding_gate
from auditkit.report.text import split_metric
from auditkit.report.worst import worst_cases
from auditkit.result import CheckRecord, ExhibitRecord, Result, Verdict

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

    A requirement that is not met speaks first, then the attack that left least of the accuracy, then any other. Of a
    check the first exhibit is taken: checks sort theirs by how bad they are.
    """
    for check, why in _candidates(result):
        for exhibit in check.exhibits:
            panels = [panel for panel in exhibit.panels if panel.kind == "image" and panel.array in arrays]
            if len(panels) >= _SHOWN:
                pair = exhibit.model_copy(update={"panels": tuple(panels[:_SHOWN])})
                return Telling(check, pair, why)
    return None


def _candidates(result: Result) -> Iterator[tuple[CheckRecord, str]]:
    gate = deciding_gate(result)
    if gate is not None and (check := result.check(split_metric(gate.metric)[0])) is not None:
        undecided = gate.verdict is Verdict.INCONCLUSIVE
        yield check, f"From the check whose requirement is {'undecided' if undecided else 'not met'}"
    # Of equal values the smaller budget comes first, for it is the harder to excuse.
    for case in sorted(worst_cases(result), key=lambda case: case.estimate.value):
        if (check := result.check(case.check)) is not None:
            yield check, "From the attack that left least of the accuracy"
    for check in result.checks:
        yield check, "From the gallery of a check"
