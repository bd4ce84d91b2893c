"""Runs a plan: shard by shard, check by check, each unit isolated, stored when it is done, never repeated."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from auditkit.errors import AuditError
from auditkit.models.base import Capability, Model
from auditkit.plan import Planned
from auditkit.progress import Progress
from auditkit.samples import Read, Samples, Skipped, fingerprint
from auditkit.store import Store, unit_digest
from auditkit.workbench import Workbench

__all__ = ["Execution", "ShardRecord", "Task", "execute", "missing_capability", "run_task"]

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


@dataclass
class Execution:
    """What came out of a run: which shards there were, where their units lie, which checks failed and why."""

    shards: list[ShardRecord] = field(default_factory=list)
    units: dict[tuple[str, int], str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """The digest of all samples, the same whatever the shards."""
        return fingerprint(digest for shard in self.shards for digest in shard.digests)


def missing_capability(planned: Planned, model: Model) -> str | None:
    """Return why a check cannot run on this model, None where it can."""
    missing = planned.check.spec.needs - model.capabilities
    if Capability.GRADIENTS in missing:
        return f"it needs gradients, and the model gives none: {model.no_gradients}"
    return f"it needs {', '.join(sorted(need.value for need in missing))}" if missing else None


def execute(
    bench: Workbench,
    plan: Sequence[Planned],
    store: Store,
    progress: Progress,
    elsewhere: Callable[[Workbench, Store, Sequence[Task], Progress], dict[str, str]] | None = None,
) -> Execution:
    """Do every unit of the plan that the store does not hold yet.

    `elsewhere` does the tasks in other processes and returns failures by check key; None: they are done here.
    """
    runnable = [planned for planned in plan if missing_capability(planned, bench.model) is None]
    execution = Execution()
    progress.start(len(runnable) * len(bench.dataset))
    pending: list[Task] = []
    for index, (start, stop) in enumerate(bench.shards):
        read = bench.read(start, stop)
        execution.shards.append(_record(read))
        if not len(read.samples):
            continue
        tasks = _tasks(bench, runnable, index, execution, store, progress)
        if elsewhere is not None:
            pending += tasks
            continue
        for task in tasks:
            if task.planned.key in execution.failures:
                progress.advance(len(read.samples), task.planned.key)
            elif (failure := run_task(bench, store, task, read.samples, progress)) is not None:
                execution.failures[task.planned.key] = failure
    if elsewhere is not None and pending:
        execution.failures |= elsewhere(bench, store, pending, progress)
    return execution


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
    digests = execution.shards[shard].digests
    tasks = []
    for planned in plan:
        digest = unit_digest(_unit_key(bench, planned, digests))
        execution.units[planned.key, shard] = digest
        if store.holds(digest):
            progress.advance(len(digests), planned.key)
        else:
            tasks.append(Task(shard, planned, digest))
    return tasks


def run_task(bench: Workbench, store: Store, task: Task, samples: Samples, progress: Progress) -> str | None:
    """Compute and store one unit; return why it failed, None where it did not."""
    told = 0

    def advance(pairs: int) -> None:
        nonlocal told
        pairs = min(pairs, len(samples) - told)
        told += pairs
        progress.advance(pairs, task.planned.key)

    try:
        unit = bench.run(task.planned, samples, advance)
    except AuditError as error:
        return str(error)
    finally:
        advance(len(samples))
    store.put(task.digest, unit)
    return None


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
        "fixed batch": [
            model.batching.fixed,
            bench.search.batching.fixed if bench.search is not None else None,
        ],
        "class names": bench.class_names,
        "check": [planned.key, planned.check.spec.version, planned.distribution, planned.code],
        "options": dict(planned.options),
        "seed": bench.recipe.settings.seed,
        "versions": {name: _version(name) for name in _NUMERICS},
        "machine": platform.machine(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
