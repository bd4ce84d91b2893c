"""Runs a plan: shard by shard, check by check, each unit isolated, stored when it is done, never repeated."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from auditkit.check import Lesson
from auditkit.errors import AuditError, DeviceLostError
from auditkit.executors.dispatch import Executor
from auditkit.journal import Journal
from auditkit.models.base import Capability, Model
from auditkit.objects.detector import Detector
from auditkit.plan import Planned
from auditkit.progress import Progress
from auditkit.samples import Read, Samples, Skipped, fingerprint
from auditkit.store import Store, unit_digest
from auditkit.units import Task, circumstances, judge_samples
from auditkit.workbench import Workbench

__all__ = ["Enough", "Execution", "Hands", "ShardRecord", "execute", "missing_capability", "why_skipped"]

_NOTHING_TO_LEARN = {
    "dataset": "none of the images fell to the training half: it has none to learn from",
    "calibrated": "none of the images to calibrate with could be read",
    "outside": "none of the images of --ood could be read",
}


@dataclass(frozen=True)
class ShardRecord:
    """A shard that was read: who is in it, and which images could not be used."""

    ids: tuple[str, ...]
    labels: tuple[int, ...]
    digests: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    shape: tuple[int, int, int]


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


@dataclass(frozen=True)
class Hands:
    """Who does the units."""

    executor: Executor | None = None
    """Does all of them; None: this process does."""
    apart: Executor | None = None
    """Does those in which this process died before; None: this process tries again."""


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
    journal: Journal,
    hands: Hands | None = None,
    enough: Enough | None = None,
) -> Execution:
    """Do every unit of the plan that the store does not hold yet.

    Where this process does the units, `enough` is asked after each shard, and the shards behind the one that satisfies
    it are left out.
    """
    runnable = [planned for planned in plan if why_skipped(bench, planned) is None]
    run = _Run(bench, store, progress, journal, hands if hands is not None else Hands())
    progress.start(len(runnable) * len(bench.dataset))
    run.learn([planned for planned in runnable if planned.check.spec.scope != "sample"])
    independent = [planned for planned in runnable if not planned.check.spec.reads]
    if run.hands.executor is not None:
        run.failures.update(run.hands.executor.do(run.tasks_of_all(independent)))
    else:
        for index, samples in run.shards():
            run.do_here(run.tasks(independent, index), samples)
            if enough is not None and enough(run.execution):
                break
    run.read([planned for planned in runnable if planned.check.spec.reads])
    return run.execution


@dataclass
class _Run:
    """An execution in progress."""

    bench: Workbench
    store: Store
    progress: Progress
    journal: Journal
    hands: Hands
    execution: Execution = field(default_factory=Execution)

    @property
    def failures(self) -> dict[str, str]:
        """Why checks failed, by key; filled as it goes."""
        return self.execution.failures

    def shards(self) -> Iterator[tuple[int, Samples]]:
        """Read shard after shard, and yield those in which there is anything."""
        for index, (start, stop) in enumerate(self.bench.shards):
            read = self.bench.read(start, stop)
            record = _record(read)
            self.journal.see(record.ids, record.digests)
            self.execution.shards.append(record)
            if len(read.samples):
                yield index, read.samples

    def tasks_of_all(self, plan: Sequence[Planned]) -> Iterator[Task]:
        """Yield what is to be done, shard by shard, as it is asked for."""
        for index, _ in self.shards():
            yield from self.tasks(plan, index)

    def read(self, reading: Sequence[Planned]) -> None:
        """Run the checks that read others, now that it is known of every shard which of those failed."""
        filled = [index for index, shard in enumerate(self.execution.shards) if shard.ids]
        if self.hands.executor is not None:
            tasks = (task for index in filled for task in self.tasks(reading, index))
            self.failures.update(self.hands.executor.do(tasks) if reading else {})
            return
        for index in filled:
            tasks_here = self.tasks(reading, index)
            if tasks_here:
                self.do_here(tasks_here, self.bench.read(*self.bench.shards[index]).samples)

    def do_here(self, tasks: Sequence[Task], samples: Samples) -> None:
        """Do the tasks of one shard, but for those of checks that failed before."""
        for task in tasks:
            if task.planned.key in self.failures:
                self.progress.advance(len(samples), task.planned.key)
            elif self.hands.apart is not None and task.digest in self.journal.suspects:
                self.failures.update(self.hands.apart.do([task]))
            else:
                with self.journal.at(task.digest):
                    failure = judge_samples(self.bench, self.store, task, samples, self.progress)
                if failure is not None:
                    self.failures[task.planned.key] = failure

    def learn(self, learners: Sequence[Planned]) -> None:
        """Let checks learn, from images that are read only if there is something to learn from them."""
        for scope in dict.fromkeys(planned.check.spec.scope for planned in learners):
            digests = [digest for samples in self.bench.lessons(scope) for digest in samples.digests()]
            if scope == "outside":
                self.execution.outside = len(digests), fingerprint(digests)
            due: list[Task] = []
            for planned in learners:
                if planned.check.spec.scope != scope:
                    continue
                if not digests:
                    self.failures[planned.key] = _NOTHING_TO_LEARN[scope]
                    continue
                seen = circumstances(self.bench, planned, digests)
                parts: dict[str, object] = {"lesson": seen}
                if scope == "outside":
                    parts["calibration"] = fingerprint(self.bench.calibration.samples.digests())
                task = Task(planned, unit_digest(parts), seen, shard=None)
                self.execution.lessons[planned.key] = task.digest
                if not self.store.holds(task.digest):
                    due.append(task)
            self._teach(scope, due)

    def _teach(self, scope: str, due: Sequence[Task]) -> None:
        """Let checks learn from the images of a scope, and take note of those that failed."""
        suspects = [task for task in due if task.digest in self.journal.suspects and self.hands.apart is not None]
        others = [task for task in due if task not in suspects]
        failures: dict[str, str] = {}
        if self.hands.executor is not None:
            failures = self.hands.executor.do(due) if due else {}
        else:
            failures = self.hands.apart.do(suspects) if suspects and self.hands.apart is not None else {}
            failures |= self._teach_here(scope, others)
        for key, failure in failures.items():
            del self.execution.lessons[key]
            self.failures[key] = failure

    def _teach_here(self, scope: str, due: Sequence[Task]) -> dict[str, str]:
        """Show the images of a scope, shard by shard, to the checks; keep what they learn, return why some failed."""
        lessons: dict[str, Lesson] = {task.digest: {} for task in due}
        failures: dict[str, str] = {}
        for samples in self.bench.lessons(scope) if due else ():
            for task in due if len(samples) else ():
                if task.planned.key in failures:
                    continue
                try:
                    with self.journal.at(task.digest):
                        lessons[task.digest] = self.bench.learn(task.planned, samples, lessons[task.digest])
                except DeviceLostError:
                    raise
                except AuditError as error:
                    failures[task.planned.key] = str(error)
        for task in due:
            if task.planned.key not in failures:
                self.store.put_lesson(task.digest, lessons[task.digest])
        return failures

    def tasks(self, plan: Sequence[Planned], shard: int) -> list[Task]:
        """Return what is to be done on a shard that was read, and note under what it will be stored."""
        execution, record = self.execution, self.execution.shards[shard]
        tasks = []
        for planned in plan:
            execution.planned[planned.key] = planned
            scope = planned.check.spec.scope
            learns = scope != "sample"
            lesson = execution.lessons.get(planned.key)
            judges_none = scope == "dataset" and not self.bench.held_out(record.ids).any()
            if judges_none or (learns and lesson is None):
                self.progress.advance(len(record.ids), planned.key)
                continue
            reads = _reads(planned, shard, execution)
            seen = circumstances(self.bench, planned, record.digests)
            parts = dict(seen)
            if learns:
                parts |= {"lesson": lesson, "images": len(self.bench.dataset)}
            if planned.check.spec.reads:
                parts["reads"] = [[other.key, digest] for other, digest in reads]
            digest = unit_digest(parts)
            execution.units[planned.key, shard] = digest
            if self.store.holds(digest):
                self.progress.advance(len(record.ids), planned.key)
            else:
                tasks.append(Task(planned, digest, seen, shard, lesson, reads))
        return tasks


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
