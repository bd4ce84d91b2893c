"""Two audits of the same images, metric by metric: what moved, and whether that is more than chance."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from auditkit.baseline import Measured, fall, pairs_of, reversed_change
from auditkit.errors import UsageError
from auditkit.paired import holm, sign_test
from auditkit.result import CheckRecord, ModelRecord, Verdict
from auditkit.stats import CONFIDENCE, Estimate

__all__ = ["Comparison", "MetricChange", "Side", "compare"]

_CHANCE = 1 - CONFIDENCE


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Side(_Record):
    """One of the two audits."""

    model: ModelRecord
    images: int
    date: str
    verdict: Verdict


class MetricChange(_Record):
    """A metric in both audits, and how it moved on the images that count in both."""

    check: str
    metric: str
    title: str
    before: Estimate
    after: Estimate
    rise: Estimate | None = Field(description="after minus before, image by image; null where that cannot be said")
    p_value: float | None = Field(description="two-sided sign test, for all metrics together (Holm)")
    reason: str | None = Field(default=None, description="why there is no rise")

    @property
    def moved(self) -> bool:
        """Whether the change is more than chance, all metrics considered."""
        return self.p_value is not None and self.p_value < _CHANCE


class Comparison(_Record):
    """What two audits have in common and what not."""

    base: Side
    new: Side
    changes: tuple[MetricChange, ...] = Field(description="those that moved first, the largest first")
    only_in_base: tuple[str, ...] = Field(description="checks")
    only_in_new: tuple[str, ...]

    @property
    def moved(self) -> tuple[MetricChange, ...]:
        """The changes that are more than chance."""
        return tuple(change for change in self.changes if change.moved)

    def sentence(self) -> str:
        """Return the outcome in one sentence."""
        compared = sum(change.rise is not None for change in self.changes)
        if not compared:
            return "No metric could be compared image by image."
        of = f"of {compared} metric{'s' if compared > 1 else ''}"
        if not self.moved:
            return f"None {of} moved by more than chance."
        rose = sum(change.rise is not None and change.rise.value > 0 for change in self.moved)
        parts = [f"{count} {word}" for count, word in ((rose, "rose"), (len(self.moved) - rose, "fell")) if count]
        return f"{len(self.moved)} {of} moved by more than chance: {', '.join(parts)}."

    def to_json(self) -> str:
        """Return the comparison as strict, stable JSON text."""
        data = self.model_dump(mode="json")
        return json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def compare(base: Measured, new: Measured) -> Comparison:
    """Compare two audits on every metric that both have; the p-values hold for all of them together (Holm 1979).

    Raises:
        UsageError: one of them could stop early, when it suited: no p-value of a single look holds then.
    """
    for name, side in (("baseline", base), ("new audit", new)):
        if side.result.settings.get("until_decided"):
            raise UsageError(
                f"the {name} was run with until_decided, so no p-value would hold; "
                'compare whole audits, or judge it with a gate such as "... drop <= 2%"'
            )
    found = [_change(base, new, *shared) for shared in _shared(base, new)]
    tested = [index for index, (_, p_value) in enumerate(found) if p_value is not None]
    adjusted = holm(np.array([found[index][1] for index in tested], dtype=np.float64)) if tested else np.zeros(0)
    p_values = dict(zip(tested, adjusted.tolist(), strict=True))
    changes = [change.model_copy(update={"p_value": p_values.get(index)}) for index, (change, _) in enumerate(found)]
    keys = [{check.key for check in side.result.checks} for side in (base, new)]
    return Comparison(
        base=_side(base),
        new=_side(new),
        changes=tuple(sorted(changes, key=_importance)),
        only_in_base=tuple(sorted(keys[0] - keys[1])),
        only_in_new=tuple(sorted(keys[1] - keys[0])),
    )


def _side(measured: Measured) -> Side:
    result = measured.result
    return Side(
        model=result.model,
        images=result.samples.n,
        date=str(result.volatile.get("date", "not recorded")),
        verdict=result.verdict,
    )


def _shared(base: Measured, new: Measured) -> Iterator[tuple[CheckRecord, CheckRecord, str]]:
    """Yield the metrics of both, each once: a plain name that stands for the largest budget is left to that one."""
    for after in new.result.checks:
        before = base.result.check(after.key)
        for name in after.metrics if before is not None else ():
            stands_for_another = any(other.startswith(f"{name}@") for other in after.metrics)
            if before is not None and name in before.metrics and not stands_for_another:
                yield before, after, name


def _change(
    base: Measured, new: Measured, before: CheckRecord, after: CheckRecord, name: str
) -> tuple[MetricChange, float | None]:
    pairs = pairs_of(base, new, after.key, name)
    plain, at, budget = name.partition("@")
    title = after.metric_titles.get(name, plain.replace("_", " "))
    change = MetricChange(
        check=after.key,
        metric=name,
        title=f"{title} at {budget}" if at else title,
        before=before.metrics[name],
        after=after.metrics[name],
        rise=None if isinstance(pairs, str) else reversed_change(fall(pairs)),
        p_value=None,
        reason=pairs if isinstance(pairs, str) else None,
    )
    return change, None if isinstance(pairs, str) else sign_test(pairs.before, pairs.after)


def _importance(change: MetricChange) -> tuple[bool, float, float, str, str]:
    rise = abs(change.rise.value) if change.rise is not None else 0.0
    p_value = change.p_value if change.p_value is not None else 2.0
    return not change.moved, p_value if not change.moved else 0.0, -rise, change.check, change.metric
