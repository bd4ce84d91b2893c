"""One unit of an audit: what its findings depend on, and how they come about, in whatever process."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from auditkit.check import Findings, Finished, Lesson
from auditkit.errors import AuditError, DeviceLostError, ExecutionError
from auditkit.models.loaded import digest_files
from auditkit.plan import Planned
from auditkit.progress import Progress
from auditkit.samples import Samples, fingerprint
from auditkit.store import Store
from auditkit.workbench import Workbench

__all__ = ["OtherCircumstancesError", "Task", "check_circumstances", "circumstances", "judge_samples", "learn_lesson"]

_NUMERICS = ("auditkit", "torch", "onnxruntime", "onnxruntime-gpu", "onnx2fx", "numpy")


class OtherCircumstancesError(ExecutionError):
    """A process would compute a unit from something else than what the audit was planned with."""


@dataclass(frozen=True)
class Task:
    """One unit that still has to be computed."""

    planned: Planned
    digest: str
    """What the unit is stored under."""
    circumstances: Mapping[str, object]
    """What whoever gave the task saw; another process must see the same."""
    shard: int | None
    """Which images the check is judged on; None: it learns, from the images of its scope."""
    lesson: str | None = None
    """Digest of what the check learned."""
    reads: tuple[tuple[Planned, str], ...] = ()
    """The finished checks that it reads, each with the digest of its unit."""


def circumstances(bench: Workbench, planned: Planned, digests: Sequence[str]) -> dict[str, object]:
    """Return everything that findings on samples with these digests depend on, as plain data."""
    model = bench.model
    return {
        "samples": fingerprint(digests),
        "model": model.info.digest,
        "preprocessing": model.info.preprocessing,
        "provider": model.info.provider,
        "device": model.device.type,
        "search": bench.search.description if bench.search is not None else None,
        "batching": [asdict(model.batching), asdict(bench.search.batching) if bench.search is not None else None],
        "class names": bench.class_names,
        "check": [planned.key, planned.check.spec.version, planned.distribution, planned.code],
        "options": dict(planned.options),
        "files": _files(planned),
        "seed": bench.recipe.settings.seed,
        "versions": {name: _version(name) for name in _NUMERICS},
        "machine": platform.machine(),
    }


def check_circumstances(bench: Workbench, task: Task, digests: Sequence[str]) -> None:
    """Make sure that this process sees what whoever gave the task saw.

    Raises:
        OtherCircumstancesError: it does not; the message names what differs, and on which machine.
    """
    own = circumstances(bench, task.planned, digests)
    other = [name for name, value in own.items() if value != task.circumstances[name]]
    if other:
        raise OtherCircumstancesError(
            f"a process on {platform.node()} sees other {', '.join(other)} than the audit began with; every machine "
            "needs the same files under the same names and the same versions, and they must not change meanwhile"
        )


def _files(planned: Planned) -> dict[str, str]:
    """Return the sha256 of each file that an option names: another file of the same name is another option."""
    named = {name: value for name, value in planned.options.items() if isinstance(value, str)}
    # Unlike that of `Path`, this test takes any text.
    return {name: digest_files([Path(value)]) for name, value in named.items() if os.path.isfile(value)}  # noqa: PTH113


@functools.cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def judge_samples(bench: Workbench, store: Store, task: Task, samples: Samples, progress: Progress) -> str | None:
    """Compute and store what a check finds on a shard; return why it failed, None where it did not."""
    told = 0

    def advance(pairs: int) -> None:
        nonlocal told
        pairs = min(pairs, len(samples) - told)
        told += pairs
        progress.advance(pairs, task.planned.key)

    try:
        lesson = store.get_lesson(task.lesson) if task.lesson is not None else None
        judged, rows = samples, np.ones(len(samples), dtype=bool)
        if task.planned.check.spec.scope == "dataset":
            rows = bench.held_out(samples.ids)
            judged = samples.take(torch.from_numpy(rows))
        finished = {planned.key: _finished(planned, store.get(digest).findings, rows) for planned, digest in task.reads}
        unit = bench.run(task.planned, judged, advance, lesson, finished)
    except DeviceLostError:
        raise
    except AuditError as error:
        return str(error)
    finally:
        advance(len(samples))
    store.put(task.digest, unit)
    return None


def _finished(planned: Planned, findings: Findings, rows: npt.NDArray[np.bool_]) -> Finished:
    """Return what a check found on some rows of a shard."""
    attacked = findings.attacked
    if attacked is not None:
        attacked = attacked[rows[findings.columns["found"]]]
    return Finished(planned.check, {name: column[rows] for name, column in findings.columns.items()}, attacked)


def learn_lesson(bench: Workbench, store: Store, task: Task) -> str | None:
    """Let a check learn from the images of its scope, and store it; return why it failed, None where it did not.

    Raises:
        OtherCircumstancesError: these are other images.
    """
    lesson: Lesson = {}
    digests: list[str] = []
    try:
        for samples in bench.lessons(task.planned.check.spec.scope):
            digests += samples.digests()
            if len(samples):
                lesson = bench.learn(task.planned, samples, lesson)
    except DeviceLostError:
        raise
    except AuditError as error:
        return str(error)
    check_circumstances(bench, task, digests)
    store.put_lesson(task.digest, lesson)
    return None
