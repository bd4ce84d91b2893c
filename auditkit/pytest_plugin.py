"""A plugin for pytest: the fixture `audit`, and the marker `audit` with gates that must pass before a test runs.

pytest imports it at every start, so it imports nothing heavy before a test asks for an audit.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from auditkit.errors import AuditError, UsageError

if TYPE_CHECKING:
    from auditkit.auditing import AuditResult

__all__ = ["audit"]

_MARKER = (
    "audit(gate, model, data, checks, **settings): audit the model, and fail unless every gate passes. gate: a "
    "requirement, or a list of them. model, data: left out, the fixtures of these names that the test takes. checks: "
    "left out, those that the gates name. settings: those of auditkit.audit."
)


@pytest.fixture
def audit(tmp_path: Path) -> Callable[..., AuditResult]:
    """A function (model, data, **settings): `auditkit.audit`, which writes into a new folder of `tmp_path`."""
    return functools.partial(_audit, tmp_path)


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", _MARKER)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let a marked test have `tmp_path`, whether it asks for it or not."""
    if isinstance(item, pytest.Function) and item.get_closest_marker("audit") and "tmp_path" not in item.fixturenames:
        item.fixturenames.append("tmp_path")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Audit as the markers say; what the test itself does comes after, and only if all gates pass."""
    if isinstance(item, pytest.Function):
        # Each marker is an audit of its own: one that hid another would drop a requirement.
        for marker in item.iter_markers("audit"):
            if reasons := _reasons_to_fail(marker, item.funcargs):
                pytest.fail("\n".join(reasons), pytrace=False)


def _reasons_to_fail(marker: pytest.Mark, fixtures: Mapping[str, Any]) -> list[str]:
    """Audit as the marker says; return what speaks against the model, nothing if all gates pass."""
    try:
        settings = _settings(marker, fixtures)
        out = Path(settings.pop("out", None) or _new_folder(fixtures["tmp_path"]))
        audited = _audit(fixtures["tmp_path"], out=out, **settings)
    except AuditError as error:
        return [f"auditkit: {' '.join(str(error).split())}"]
    if audited.passed:
        return []
    from auditkit.report.text import verdict_lines

    return [*verdict_lines(audited.result), f"report: {out / 'report.html'}"]


def _settings(marker: pytest.Mark, fixtures: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `auditkit.audit` is to be called with."""
    if marker.args:
        raise UsageError(f"the marker audit takes names only, such as gate=...; got {marker.args[0]!r}")
    settings = dict(marker.kwargs)
    gates = settings.pop("gate", None)
    gates = [gates] if isinstance(gates, str | Mapping) else gates
    if "gates" in settings or not isinstance(gates, list | tuple) or not gates:
        got = f"gates={settings['gates']!r}" if "gates" in settings else f"gate={gates!r}"
        raise UsageError(
            'the marker audit wants gate="check/metric >= number", or a list of several requirements; got ' + got
        )
    for name in ("model", "data"):
        if name not in settings and name not in fixtures:
            raise UsageError(f"the marker audit has no {name}=..., and the test takes no fixture named {name}")
        settings.setdefault(name, fixtures.get(name))
    if "checks" not in settings and "preset" not in settings:
        settings["checks"] = _checks_of(gates)
    return {**settings, "gates": gates}


def _checks_of(gates: Sequence[object]) -> list[str]:
    from auditkit.requirements import parse_requirement

    return list(dict.fromkeys(parse_requirement(given).check for given in gates))


def _audit(folder: Path, model: Any, data: object, *, out: str | Path | None = None, **settings: Any) -> AuditResult:
    # torch itself still uses what it deprecates, and many a project has its tests fail at any warning.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
        from auditkit.auditing import audit

        return audit(model, data, out=out or _new_folder(folder), **settings)


def _new_folder(folder: Path) -> Path:
    """Return where no audit has been; the audit makes it."""
    names = itertools.chain(["audit"], (f"audit-{number}" for number in itertools.count(2)))
    return next(folder / name for name in names if not (folder / name).exists())
