"""The errors that auditkit raises on purpose: one clear line each, and the exit code it leads to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum

__all__ = ["AuditError", "DeviceLostError", "ExecutionError", "ExitCode", "UsageError", "did_you_mean"]


class ExitCode(IntEnum):
    """What `auditkit` returns to the shell; part of the public interface."""

    PASS = 0
    FAIL = 1
    USAGE = 2
    EXECUTION = 3
    INCONCLUSIVE = 4
    NOTHING_EVALUATED = 5
    INTERRUPTED = 130


class AuditError(Exception):
    """An error with a message for the user: what was wanted, what was got, where."""

    exit_code = ExitCode.EXECUTION


class UsageError(AuditError):
    """The command, the options or the configuration ask for something that cannot be."""

    exit_code = ExitCode.USAGE


class ExecutionError(AuditError):
    """The request was fine, but a model, an image or a check could not be worked with."""


class DeviceLostError(ExecutionError):
    """An accelerator failed in a way after which nothing can be computed on it in this process."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean X?` for the closest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""
