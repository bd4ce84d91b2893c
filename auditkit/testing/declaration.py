"""What a check declares about itself, held to the contract."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from auditkit.check import Check, Spec
from auditkit.errors import AuditError
from auditkit.plan import PRESETS, Planned, configure
from auditkit.testing.holding import hold

__all__ = ["declared"]

_ID = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")


def declared(check: type[Any] | Check, options: Mapping[str, Any], beside: Sequence[Check]) -> Planned:
    """Return the check with its options, once its declaration was held to the contract."""
    kind: Any = check if isinstance(check, type) else type(check)
    name = kind.__name__
    hold(dataclasses.is_dataclass(kind), f"{name} is not a dataclass")
    hold(kind.__dataclass_params__.frozen, f"{name} is not frozen: @dataclass(frozen=True)")
    spec = getattr(kind, "spec", None)
    if not isinstance(spec, Spec):
        raise AssertionError(f"{name} has no spec of type Spec")
    _hold_spec(name, spec)
    _hold_methods(name, kind)
    for other in beside:
        reads = any(fnmatch.fnmatchcase(other.spec.id, pattern) for pattern in spec.reads)
        hold(reads, f"{spec.id} does not read {other.spec.id}: it reads {', '.join(spec.reads) or 'nothing'}")
    try:
        for preset, chosen in spec.presets.items():
            hold(preset in PRESETS, f"{name} names a preset {preset!r}; there are {', '.join(PRESETS)}")
            configure(kind, chosen, spec.id, "testing")
        if not isinstance(check, type):
            hold(not options, "options go with the class of a check, not with one that has its options")
            options = {field.name: getattr(check, field.name) for field in dataclasses.fields(kind)}
        planned = configure(kind, options, spec.id, "testing")
        text = json.dumps(dict(planned.options), allow_nan=False)
        again = configure(kind, json.loads(text), spec.id, "testing").check
    except (AuditError, TypeError, ValueError) as error:
        raise AssertionError(f"the options of {name} are not plain data that can be read back: {error}") from error
    hold(again == planned.check, f"the options of {name} do not survive being stored as {text}")
    return planned


def _hold_methods(name: str, kind: type[Any]) -> None:
    hold(callable(getattr(kind, "run", None)), f"{name} has no method run")
    if kind.spec.scope != "sample":
        hold(callable(getattr(kind, "learn", None)), f"{name} has scope {kind.spec.scope} and no method learn")


def _hold_spec(name: str, spec: Spec) -> None:
    hold(_ID.fullmatch(spec.id) is not None, f"{name}: an id reads group.name in lower case, not {spec.id!r}")
    for field in ("title", "why"):
        hold(bool(getattr(spec, field).strip()), f"{spec.id}: the spec has no {field}")
    hold(len(spec.metrics) > 0, f"{spec.id}: the spec has no metrics, so nothing of it can be gated")
    names = [metric.name for metric in spec.metrics]
    hold(len(set(names)) == len(names), f"{spec.id}: two metrics share a name")
    for metric in spec.metrics:
        hold(bool(metric.title.strip()), f"{spec.id}: metric {metric.name} has no title")
    for curve in spec.curves:
        hold(curve.metric in names, f"{spec.id}: a curve of {curve.metric}, which is no metric of it")
    for flag in spec.flags:
        hold(
            flag.metric in names,
            f"{spec.id}: flag {flag.id} looks at {flag.metric}, which is no metric of it",
        )
        hold(bool(flag.text and flag.remedy), f"{spec.id}: flag {flag.id} needs a text and a remedy")
