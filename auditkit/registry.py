"""Finds plugins through entry points: listing imports nothing, and a broken plugin spoils only itself."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import Any

from auditkit.errors import ExecutionError, UsageError, did_you_mean

__all__ = ["CHECKS", "DETECTOR_CHECKS", "Entry", "code_digest", "entries", "find", "load_check"]

CHECKS = "auditkit.checks"
DETECTOR_CHECKS = "auditkit.detector_checks"
"""Checks that are given a detector of objects; one may have the id of a check of classifiers."""


@dataclass(frozen=True)
class Entry:
    """A plugin as its distribution announces it."""

    id: str
    distribution: str
    """Name and version of the installed package."""
    point: EntryPoint


def entries(group: str = CHECKS) -> tuple[Entry, ...]:
    """Return all plugins of a group, sorted by id, without importing any."""
    points = tuple(entry_points(group=group))
    # A distribution with many plugins is asked once: each answer reads and parses its metadata.
    names = {distribution: _named(distribution) for distribution in {point.dist for point in points}}
    found = [Entry(point.name, names[point.dist], point) for point in points]
    return tuple(sorted(found, key=lambda entry: (entry.id, entry.distribution)))


def _named(distribution: Distribution | None) -> str:
    return f"{distribution.name} {distribution.version}" if distribution is not None else "unknown"


def find(check_id: str, known: Sequence[Entry] | None = None) -> Entry:
    """Return the plugin with this id, among the installed checks of classifiers, or those `known`.

    Raises:
        UsageError: there is none, or several distributions claim the id.
    """
    known = entries() if known is None else known
    same = [entry for entry in known if entry.id == check_id]
    if not same:
        raise UsageError(f"there is no check {check_id!r}{did_you_mean(check_id, [entry.id for entry in known])}")
    claims = Counter(entry.distribution for entry in same)
    if len(claims) > 1:
        raise UsageError(f"check {check_id} is claimed by {' and '.join(sorted(claims))}; uninstall all but one")
    return same[0]


def load_check(entry: Entry) -> type[Any]:
    """Import a plugin's check class.

    Raises:
        ExecutionError: importing it fails, or it is not a check with the id it is announced under.
    """
    try:
        loaded = entry.point.load()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        lines = str(error).strip().splitlines()
        raise ExecutionError(
            f"check {entry.id} of {entry.distribution} cannot be imported: "
            f"{type(error).__name__}: {lines[0] if lines else ''}"
        ) from error
    from pydantic import TypeAdapter

    from auditkit.check import Spec

    spec = getattr(loaded, "spec", None)
    if (
        not isinstance(loaded, type)
        or not dataclasses.is_dataclass(loaded)
        or not isinstance(spec, Spec)
        or spec.id != entry.id
        or not callable(getattr(loaded, "run", None))
    ):
        raise ExecutionError(
            f"check {entry.id} of {entry.distribution} is not a check: wanted a dataclass with a method run and a "
            f"spec whose id is {entry.id!r}, got {loaded!r}"
        )
    try:
        TypeAdapter(loaded)
    except Exception as error:
        raise ExecutionError(
            f"check {entry.id} of {entry.distribution} is not a check that can be set up: "
            f"{(str(error).strip().splitlines() or [type(error).__name__])[0]}"
        ) from error
    return loaded


def code_digest(kind: type[Any]) -> str:
    """Return the sha256 (hex) of the Python files of the package that a check belongs to; empty without files.

    An edited plugin then computes anew, whatever its version says.
    """
    top = sys.modules.get(kind.__module__.partition(".")[0])
    folders = [Path(folder) for folder in getattr(top, "__path__", ())]
    single = getattr(top, "__file__", None)
    files = sorted(file for folder in folders for file in folder.rglob("*.py")) or ([Path(single)] if single else [])
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest() if files else ""
