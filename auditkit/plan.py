"""From names and options to configured checks."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from auditkit.budgets import budget_text
from auditkit.check import Check
from auditkit.errors import ExecutionError, UsageError, did_you_mean
from auditkit.quoting import quoted
from auditkit.registry import CHECKS, Entry, code_digest, entries, find, load_check

__all__ = ["PRESETS", "Planned", "configure", "default_options", "option_names", "plan_checks"]

PRESETS = ("smoke", "standard", "full")
# Patterns are tried in a time that grows with the square of their length.
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Planned:
    """A check that an audit will run; `key` is its id, or `id@variant` when a check runs more than once."""

    key: str
    check: Check
    distribution: str
    options: Mapping[str, Any]
    """All options in plain data, defaults included."""
    code: str = ""
    """Digest of the code that the check came with."""


@dataclass(frozen=True)
class _Wish:
    key: str
    entry: Entry
    required: bool
    """Named by the user: a fault stops the run. One that a pattern or a preset brought in is reported and left out."""


def plan_checks(
    names: Sequence[str], options: Mapping[str, Mapping[str, Any]], preset: str, group: str = CHECKS
) -> tuple[tuple[Planned, ...], tuple[tuple[str, str, str], ...]]:
    """Return the configured checks, and (id, distribution, reason) of those that could not be loaded.

    `names` are ids, `id@variant` keys or patterns such as `noise.*`; none: those of the preset. `options` maps keys
    (or ids, for all variants) to options. `group` is that of checks of classifiers, or of detectors.

    Raises:
        UsageError: a name, an option or a value is unknown or wrong.
        ExecutionError: a check that was asked for by name cannot be loaded.
    """
    if preset not in PRESETS:
        raise UsageError(f"the presets are {', '.join(PRESETS)}; got {preset!r}{did_you_mean(preset, PRESETS)}")
    planned: list[Planned] = []
    broken: list[tuple[str, str, str]] = []
    for wish in _wishes(names, group):
        try:
            kind = load_check(wish.entry)
            _try_preset(kind, preset, wish.entry)
        except ExecutionError as error:
            if wish.required:
                raise
            broken.append((wish.entry.id, wish.entry.distribution, str(error)))
            continue
        if not names and preset not in kind.spec.presets:
            continue
        chosen = {
            **kind.spec.presets.get(preset, {}),
            **options.get(wish.entry.id, {}),
            **options.get(wish.key, {}),
        }
        planned.append(configure(kind, chosen, wish.key, wish.entry.distribution))
    _refuse_unused(options, [check.key for check in planned])
    if not planned and not broken:
        raise UsageError(
            f"no check matches {', '.join(names) if names else 'preset ' + preset}; see auditkit checks list"
        )
    return tuple(planned), tuple(broken)


def _try_preset(kind: type[Any], preset: str, entry: Entry) -> None:
    """Make sure that a check can be had with its own options for this preset: a fault in them is its author's."""
    try:
        _set_up(kind, kind.spec.presets.get(preset, {}), entry.id)
    except Exception as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExecutionError(f"check {entry.id} of {entry.distribution} cannot be set up: {text}") from error


def _wishes(names: Sequence[str], group: str) -> list[_Wish]:
    known = entries(group)
    if not names:
        return [_Wish(name, find(name, known), required=False) for name in sorted({entry.id for entry in known})]
    wishes: dict[str, _Wish] = {}
    for name in names:
        if len(name) > _LONGEST_NAME:
            raise UsageError(f"no check matches {quoted(name)}: a name has at most {_LONGEST_NAME} characters")
        if any(mark in name for mark in "*?["):
            matching = [entry for entry in known if fnmatch.fnmatchcase(entry.id, name)]
            if not matching:
                raise UsageError(f"no check matches {name!r}; see auditkit checks list")
            for entry in matching:
                wishes.setdefault(entry.id, _Wish(entry.id, find(entry.id, known), required=False))
        else:
            wishes[name] = _Wish(name, find(name.partition("@")[0], known), required=True)
    return list(wishes.values())


def _refuse_unused(options: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> None:
    used = {*keys, *(key.partition("@")[0] for key in keys)}
    for key in options:
        if key not in used:
            raise UsageError(
                f"options are given for {quoted(key)}, which is not among the chosen checks{did_you_mean(key, used)}"
            )


def option_names(kind: type[Any]) -> tuple[str, ...]:
    """Return the names of a check's options."""
    return tuple(field.name for field in dataclasses.fields(kind))


def default_options(kind: type[Any]) -> dict[str, Any]:
    """Return a check's options with their default values, as plain data."""
    return _plain(TypeAdapter(kind).validate_python({}))


def configure(kind: type[Any], options: Mapping[str, Any], key: str, distribution: str) -> Planned:
    """Return a check with its options validated.

    Raises:
        UsageError: an option is unknown, or its value does not fit.
    """
    check = _set_up(kind, options, key)
    return Planned(key, check, distribution, _plain(check), code_digest(kind))


def _set_up(kind: type[Any], options: Mapping[str, Any], key: str) -> Check:
    known = option_names(kind)
    for name in options:
        if name not in known:
            listed = f"; it has {', '.join(known)}" if known else "; it has no options"
            raise UsageError(f"{key} has no option {name!r}{did_you_mean(name, known) or listed}")
    try:
        check: Check = TypeAdapter(kind).validate_python(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:1])
        message = first["msg"].removeprefix("Value error, ")
        # What several options get wrong together has no place of its own.
        given = f"{key}.{where} = {options.get(where)!r}" if where else key
        raise UsageError(f"{given}: {message[0].lower()}{message[1:]}") from None
    return check


def _plain(check: Any) -> dict[str, Any]:
    values = {field.name: getattr(check, field.name) for field in dataclasses.fields(check)}
    if "eps" in values and isinstance(values["eps"], tuple):
        values["eps"] = [budget_text(eps) for eps in values["eps"]]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
