"""Runs a plan: shard by shard, check by check, each unit isolated, stored when it is done, never repeated."""

from __future__ import annotations

import fnmatch
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from auditkit.check import Findings, Finished, Lesson
from auditkit.errors import AuditError
from auditkit.models.base import Capability, Model
from auditkit.models.loaded import digest_files
from auditkit.objects.detector import Detector
from auditkit.plan import Planned
from auditkit.progress import Progress
from auditkit.samples import Read, Samples, Skipped, fingerprint
from auditkit.store import Store, unit_digest
from auditkit.workbench import Workbench

__all__ = ["Enough", "Execution", "ShardRecord", "Task", "execute", "missing_capability", "run_task", "why_skipped"]

_NOTHING_TO_LEARN = {
    "dataset": "none of the images fell to the training half: it has none to learn from",
    "calibrated": "none of the images to calibrate with could be read",
    "outside": "none of the images of --ood could be read",
}
_NUMERICS = ("auditkit", "torch", "onnxruntime", "onnxruntime-gpu", "onnx2fx", "numpy")


@dataclass(frozen=True)
class ShardRecord:
    """A shard that was read: who is in it, and which images could not be used."""

    ids: tuple[str, ...]
    labels: tuple[int, ...]
    digests: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class Task:
    """One unit that still has to be computed."""

    shard: int
    planned: Planned
    digest: str
    lesson: str | None = None
    """Digest of what the check learned."""
    reads: tuple[tuple[Planned, str], ...] = ()
    """The finished checks that it reads, each with the digest of its unit."""


@dataclass
class Execution:
    """What came out of a run: which shards there were, where their units lie, which checks failed and why."""

    shards: list[ShardRecord] = field(default_factory=list)
    units: dict[tuple[str, int], str] = field(default_factory=dict)
    planned: dict[str, Planned] = field(default_factory=dict)
    lessons: dict[str, str] = field(default_factory=dict)
    """Digests of what checks learned, by key."""
    outside: tuple[int, str] | None = None
    """How many images of the second data set could be read, and their fingerprint; None: no check looked at them."""
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """The digest of all samples, the same whatever the shards."""
        return fingerprint(digest for shard in self.shards for digest in shard.digests)


Elsewhere = Callable[[Workbench, Store, Sequence[Task], Progress], dict[str, str]]
"""A way to do tasks in other processes; it returns failures by check key."""

Enough = Callable[[Execution], bool]
"""Whether what is done after a shard is all that is needed."""


def missing_capability(planned: Planned, model: Model | Detector) -> str | None:
    """Return why a check cannot run on this model, None where it can."""
    missing = planned.check.spec.needs - model.capabilities
    if Capability.GRADIENTS in missing:
        return f"it needs gradients, and the model gives none: {model.no_gradients}"
    if Capability.ACTIVATIONS in missing:
        reason = model.no_gradients or model.no_activations
        return f"it needs the activations of a torch network or of the twin of an ONNX graph: {reason}"
    if Capability.SCORES in missing:
        return "it needs scores, and the model gives labels only"
    return f"it needs {', '.join(sorted(need.value for need in missing))}" if missing else None


def why_skipped(bench: Workbench, planned: Planned) -> str | None:
    """Return why a check cannot run on this model and these images, None where it can."""
    if planned.check.spec.scope == "outside" and bench.outside is None:
        return "it needs a second data set of images unlike these: --ood DATA"
    return missing_capability(planned, bench.model)


def execute(
    bench: Workbench,
    plan: Sequence[Planned],
    store: Store,
    progress: Progress,
    elsewhere: Elsewhere | None = None,
    enough: Enough | None = None,
) -> Execution:
    """Do every unit of the plan that the store does not hold yet.

    `elsewhere` does the tasks in other processes and returns failures by check key; None: they are done here. Then
    `enough` is asked after each shard, and the shards behind the one that satisfies it are left out.
    """
    runnable = [planned for planned in plan if why_skipped(bench, planned) is None]
    execution = Execution()
    progress.start(len(runnable) * len(bench.dataset))
    _learn(bench, [planned for planned in runnable if planned.check.spec.scope != "sample"], execution, store)
    independent = [planned for planned in runnable if not planned.check.spec.reads]
    reading = [planned for planned in runnable if planned.check.spec.reads]
    pending: list[Task] = []
    for index, (start, stop) in enumerate(bench.shards):
        read = bench.read(start, stop)
        execution.shards.append(_record(read))
        if not len(read.samples):
            continue
        if elsewhere is not None:
            pending += _tasks(bench, independent, index, execution, store, progress)
            continue
        tasks = _tasks(bench, independent, index, execution, store, progress)
        _do_here(bench, store, tasks, read.samples, execution.failures, progress)
        if enough is not None and enough(execution):
            break
    if pending and elsewhere is not None:
        execution.failures |= elsewhere(bench, store, pending, progress)
    _read(bench, reading, execution, store, progress, elsewhere)
    return execution


def _read(
    bench: Workbench,
    reading: Sequence[Planned],
    execution: Execution,
    store: Store,
    progress: Progress,
    elsewhere: Elsewhere | None,
) -> None:
    """Run the checks that read others, now that it is known of every shard which of those failed."""
    filled = [index for index, shard in enumerate(execution.shards) if shard.ids]
    pending = {index: _tasks(bench, reading, index, execution, store, progress) for index in filled}
    if elsewhere is not None:
        tasks = [task for index in filled for task in pending[index]]
        execution.failures |= elsewhere(bench, store, tasks, progress) if tasks else {}
        return
    for index in filled:
        if pending[index]:
            samples = bench.read(*bench.shards[index]).samples
            _do_here(bench, store, pending[index], samples, execution.failures, progress)


def _do_here(
    bench: Workbench,
    store: Store,
    tasks: Sequence[Task],
    samples: Samples,
    failures: dict[str, str],
    progress: Progress,
) -> None:
    """Do the tasks of one shard in this process, but for those of checks that failed before."""
    for task in tasks:
        if task.planned.key in failures:
            progress.advance(len(samples), task.planned.key)
        elif (failure := run_task(bench, store, task, samples, progress)) is not None:
            failures[task.planned.key] = failure


def _learn(bench: Workbench, learners: Sequence[Planned], execution: Execution, store: Store) -> None:
    """Let checks learn, from images that are read only if there is something to learn from them."""
    for scope in dict.fromkeys(planned.check.spec.scope for planned in learners):
        digests = [digest for samples in bench.lessons(scope) for digest in samples.digests()]
        if scope == "outside":
            execution.outside = len(digests), fingerprint(digests)
        due: dict[str, Planned] = {}
        for planned in learners:
            if planned.check.spec.scope != scope:
                continue
            if not digests:
                execution.failures[planned.key] = _NOTHING_TO_LEARN[scope]
                continue
            parts: dict[str, object] = {"lesson": _unit_key(bench, planned, digests)}
            if scope == "outside":
                parts["calibration"] = fingerprint(bench.calibration.samples.digests())
            execution.lessons[planned.key] = unit_digest(parts)
            if not store.holds(execution.lessons[planned.key]):
                due[planned.key] = planned
        _teach(bench, scope, due, execution, store)


def _teach(bench: Workbench, scope: str, due: Mapping[str, Planned], execution: Execution, store: Store) -> None:
    """Show the images of a scope, shard by shard, to the checks that still have to learn; keep what they learn."""
    lessons: dict[str, Lesson] = {key: {} for key in due}
    for samples in bench.lessons(scope) if due else ():
        for key in list(lessons) if len(samples) else ():
            try:
                lessons[key] = bench.learn(due[key], samples, lessons[key])
            except AuditError as error:
                del lessons[key], execution.lessons[key]
                execution.failures[key] = str(error)
    for key, lesson in lessons.items():
        store.put_lesson(execution.lessons[key], lesson)


def _record(read: Read) -> ShardRecord:
    samples = read.samples
    channels, height, width = samples.images.shape[1:]
    return ShardRecord(
        samples.ids,
        tuple(samples.labels.tolist()),
        samples.digests(),
        read.skipped,
        (channels, height, width),
    )


def _tasks(
    bench: Workbench,
    plan: Sequence[Planned],
    shard: int,
    execution: Execution,
    store: Store,
    progress: Progress,
) -> list[Task]:
    record = execution.shards[shard]
    tasks = []
    for planned in plan:
        scope = planned.check.spec.scope
        learns = scope != "sample"
        lesson = execution.lessons.get(planned.key)
        judges_none = scope == "dataset" and not bench.held_out(record.ids).any()
        nothing_to_judge = judges_none or (learns and lesson is None)
        reads = _reads(planned, shard, execution)
        parts = _unit_key(bench, planned, record.digests)
        if learns:
            parts |= {"lesson": lesson, "images": len(bench.dataset)}
        if planned.check.spec.reads:
            parts["reads"] = [[other.key, digest] for other, digest in reads]
        digest = unit_digest(parts)
        if not nothing_to_judge:
            execution.units[planned.key, shard] = digest
        if nothing_to_judge or store.holds(digest):
            progress.advance(len(record.ids), planned.key)
        else:
            tasks.append(Task(shard, planned, digest, lesson, reads))
        execution.planned[planned.key] = planned
    return tasks


def _reads(planned: Planned, shard: int, execution: Execution) -> tuple[tuple[Planned, str], ...]:
    """Return the finished checks that this one reads, with their units of this shard."""
    return tuple(
        (other, execution.units[key, shard])
        for key, other in sorted(execution.planned.items())
        if (key, shard) in execution.units
        and key not in execution.failures
        and not other.check.spec.reads
        and other.check.spec.scope == "sample"
        and any(fnmatch.fnmatchcase(other.check.spec.id, pattern) for pattern in planned.check.spec.reads)
    )


def run_task(bench: Workbench, store: Store, task: Task, samples: Samples, progress: Progress) -> str | None:
    """Compute and store one unit; return why it failed, None where it did not."""
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


def _unit_key(bench: Workbench, planned: Planned, digests: Sequence[str]) -> dict[str, object]:
    """Return everything that a unit's findings depend on, as plain data."""
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


def _files(planned: Planned) -> dict[str, str]:
    """Return the sha256 of each file that an option names: another file of the same name is another option."""
    named = {name: value for name, value in planned.options.items() if isinstance(value, str)}
    # Unlike that of `Path`, this test takes any text.
    return {name: digest_files([Path(value)]) for name, value in named.items() if os.path.isfile(value)}  # noqa: PTH113


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
