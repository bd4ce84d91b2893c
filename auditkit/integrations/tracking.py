"""What an experiment tracker is told of an audit, under names that every tracker takes."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from auditkit.errors import UsageError

if TYPE_CHECKING:
    from auditkit.auditing import AuditResult

__all__ = ["check_prefix", "metric_name", "tracked_metrics", "tracked_parameters", "tracked_tags"]

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*([@/][A-Za-z0-9_.-]+)*")
_PREFIX = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_UNUSUAL = re.compile(r"[^A-Za-z0-9_.-]+")
_DIGEST_LENGTH = 12
# With a prefix, a slash and a suffix, two of these stay below the 250 characters that MLflow allows.
_LONGEST = 90


def check_prefix(prefix: str) -> None:
    """Refuse what cannot begin the name of a metric and be the name of a folder.

    Raises:
        UsageError: the prefix is not letters, digits, `_`, `.` and `-`.
    """
    if not _PREFIX.fullmatch(prefix) or len(prefix) > _LONGEST // 2:
        raise UsageError(f"a prefix is up to {_LONGEST // 2} letters, digits, _, . and -; got {prefix!r}")


def metric_name(check: str, metric: str, prefix: str) -> str:
    """Return a tracker's name for `check/metric`: letters, digits, `_`, `.`, `-`, blanks, and `/` between the parts.

    `noise.pgd/robust_accuracy@2/255` becomes `auditkit/noise.pgd/robust_accuracy at 2 of 255`. A name with any other
    character loses these characters, and ends in a digest of what it was: no two metrics share a name.

    Raises:
        UsageError: as `check_prefix`.
    """
    check_prefix(prefix)
    return f"{prefix}/{_legal(check)}/{_legal(metric)}"


def _legal(name: str) -> str:
    readable = name.replace("@", " at ").replace("/", " of ")
    if _PLAIN.fullmatch(name) and len(readable) <= _LONGEST:
        return readable
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{_UNUSUAL.sub('_', name).lstrip('.')[: _LONGEST - _DIGEST_LENGTH - 1]}-{digest}"


def tracked_metrics(audited: AuditResult, prefix: str = "auditkit") -> dict[str, float]:
    """Return every metric by its name, its interval and number of images beside it, and `prefix/passed`, 1 or 0.

    Raises:
        UsageError: as `check_prefix`.
    """
    metrics = {f"{prefix}/passed": float(audited.passed)}
    for check in audited.result.checks:
        for metric, estimate in check.metrics.items():
            name = metric_name(check.key, metric, prefix)
            metrics[name] = estimate.value
            metrics |= {f"{name} low": estimate.low, f"{name} high": estimate.high, f"{name} n": float(estimate.n)}
    return metrics


def tracked_parameters(audited: AuditResult, prefix: str = "auditkit") -> dict[str, str]:
    """Return what was audited and how: what another audit must share to give the same result."""
    result = audited.result
    parameters = {
        "checks": ", ".join(check.key for check in result.checks),
        "confidence": result.settings.get("confidence"),
        "model": result.model.name,
        "model_digest": result.model.digest,
        "model_format": result.model.format,
        "preset": result.settings.get("preset"),
        "samples": result.samples.n,
        "samples_fingerprint": result.samples.fingerprint,
        "seed": result.settings.get("seed"),
    }
    return {f"{prefix}/{name}": str(value) for name, value in parameters.items() if value is not None}


def tracked_tags(audited: AuditResult, prefix: str = "auditkit") -> dict[str, str]:
    """Return how it ended: the verdict, and the sentence that the report begins with."""
    from auditkit.report.text import verdict_sentence

    return {f"{prefix}/verdict": audited.verdict.value, f"{prefix}/outcome": verdict_sentence(audited.result)}
