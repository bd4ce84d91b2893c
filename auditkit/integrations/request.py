"""What a caller wants of an audit, completed and looked at before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from auditkit.auditing import gates_of
from auditkit.config import settings_from
from auditkit.plan import plan_checks
from auditkit.requirements import parse_requirement

__all__ = ["completed", "device_of"]


def completed(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that name their checks: without `checks` and `preset`, those that the gates name.

    Raises:
        UsageError: a setting, a check, an option or a gate is not what it should be.
    """
    settings = settings_from(wanted)
    gated = dict.fromkeys(parse_requirement(given).check for given in settings.gates)
    checks = settings.checks or (() if "preset" in wanted else tuple(gated))
    plan, _ = plan_checks(checks, settings.options, settings.preset)
    gates_of(settings, plan)
    return {**wanted, "checks": checks}


def device_of(network: Any) -> str:
    """Return where the parameters of a torch network are, or `auto` if it has none."""
    first = next(iter(network.parameters()), None)
    return "auto" if first is None else str(first.device)
