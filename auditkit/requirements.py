"""What is required of a model: a metric, a bound and a threshold, how much it matters, and who waived it."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from auditkit.budgets import budget_text, parse_budget
from auditkit.errors import UsageError, did_you_mean
from auditkit.quoting import printable, quoted

__all__ = ["Bound", "Change", "Gate", "Level", "Waiver", "parse_gate", "parse_requirement"]

Bound = Literal[">=", "<=", ">", "<"]
Change = Literal["drop", "rise"]
Level = Literal["error", "warn"]

_GATE = re.compile(
    r"^\s*(?P<check>[^\s/]+)/(?P<metric>\S+?)(?:\s+(?P<change>drop|rise))?\s*(?P<bound>>=|<=|>|<)\s*(?P<threshold>\S+)\s*$"
)
_KEYS = ("require", "level", "waiver")
_LONGEST = 1000
"""Characters; names of checks and metrics are far shorter."""


class Waiver(BaseModel):
    """Somebody's decision to go on although a requirement is not met."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)

    reason: str = Field(min_length=1)
    until: datetime.date
    """The last day on which it holds."""
    owner: str = Field(min_length=1)
    """Who answers for it."""


@dataclass(frozen=True)
class Gate:
    """A requirement: a metric of a check, or how it changed since the baseline, a bound and a threshold."""

    check: str
    metric: str
    bound: Bound
    threshold: float
    threshold_text: str
    change: Change | None = None
    """None: the metric itself. `drop`: how much lower than in the baseline; `rise`: how much higher."""
    level: Level = "error"
    waiver: Waiver | None = None

    @property
    def name(self) -> str:
        """The metric as results name it, `check/metric`."""
        return f"{self.check}/{self.metric}"

    def __str__(self) -> str:
        change = f" {self.change}" if self.change is not None else ""
        return f"{self.name}{change} {self.bound} {self.threshold_text}"


def parse_requirement(given: object) -> Gate:
    """Read a gate given as text, or as a table with `require`, and perhaps `level` and `waiver`.

    Raises:
        UsageError: it is something else, or a part of it is wrong.
    """
    if isinstance(given, Gate):
        return given
    if isinstance(given, str):
        return parse_gate(given)
    if not isinstance(given, Mapping) or not isinstance(given.get("require"), str):
        raise UsageError(f'a gate is a text, or a table with require = "check/metric >= number"; got {quoted(given)}')
    gate = f"the gate {printable(given['require'][:_LONGEST])}"
    for name in given:
        if name not in _KEYS:
            raise UsageError(f"{gate}: there is no {quoted(name)}{did_you_mean(str(name), _KEYS)}")
    level = given.get("level", "error")
    if level not in ("error", "warn"):
        raise UsageError(f"{gate}: level is error or warn; got {quoted(level)}")
    return parse_gate(given["require"], cast(Level, level), _waiver(given, gate))


def _waiver(given: Mapping[str, Any], gate: str) -> Waiver | None:
    waiver = given.get("waiver")
    if waiver is None:
        return None
    try:
        return Waiver.model_validate(waiver)
    except ValidationError as error:
        first = error.errors()[0]
        where = printable(".".join(str(part) for part in ("waiver", *first["loc"])))
        raise UsageError(
            f"{gate}: {where}: {printable(first['msg'][0].lower() + first['msg'][1:])}; "
            'a waiver reads {reason = "...", until = 2027-01-31, owner = "..."}'
        ) from None


def parse_gate(text: str, level: Level = "error", waiver: Waiver | None = None) -> Gate:
    """Read a gate such as `noise.pgd/robust_accuracy@2/255 >= 0.4` (or `>= 40%`, or `drop <= 2%` behind the metric).

    Raises:
        UsageError: the text does not have that form.
    """
    match = _GATE.match(text) if len(text) <= _LONGEST else None
    if match is None or not (match["check"] + match["metric"]).isprintable():
        raise UsageError(
            'a gate reads "check/metric >= number", such as "noise.pgd/robust_accuracy >= 0.4", or '
            f'"check/metric drop <= number" against a baseline; got {quoted(text)}'
        )
    wanted = match["threshold"]
    try:
        threshold = _number(wanted[:-1]) / 100 if wanted.endswith("%") else _number(wanted)
    except ValueError:
        wanted = "a number, a fraction or a percentage"
        raise UsageError(f"the threshold of a gate is {wanted}; got {quoted(text)}") from None
    return Gate(
        match["check"],
        _metric(match["metric"]),
        cast(Bound, match["bound"]),
        threshold,
        wanted,
        cast(Change | None, match["change"]),
        level,
        waiver,
    )


def _metric(name: str) -> str:
    """Write a metric's budget as results do: `@0.5/255` and `@0.00196` are then the same."""
    plain, at, budget = name.partition("@")
    try:
        return plain + at + budget_text(parse_budget(budget)) if at else plain
    except ValueError as error:
        raise UsageError(f"{printable(name)}: {printable(str(error))}") from None


def _number(text: str) -> float:
    return -parse_budget(text[1:]) if text.startswith("-") else parse_budget(text)
