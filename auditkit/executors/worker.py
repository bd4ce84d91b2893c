"""What a worker process does: it makes its own workbench once, and then one task after the other."""

from __future__ import annotations

import functools
import pickle
import platform
from dataclasses import dataclass, field

import torch

from auditkit.errors import AuditError, DeviceLostError
from auditkit.preparing import set_up
from auditkit.progress import Silent
from auditkit.samples import Samples
from auditkit.store import Store
from auditkit.units import OtherCircumstancesError, Task, check_circumstances, judge_samples, learn_lesson
from auditkit.workbench import Workbench

__all__ = ["Answer", "Worker"]


@dataclass(frozen=True)
class Answer:
    """How a task ended, unless the process died in it."""

    failure: str | None = None
    """Why the check failed."""
    lost: str | None = None
    """Why this process is of no more use, though another may do better."""
    stop: str | None = None
    """Why the audit cannot go on at all."""


@dataclass
class Worker:
    """Does tasks for a recipe, and keeps what they leave in a store."""

    recipe: bytes
    """A pickled `Recipe`."""
    threads: int
    store: Store
    _shard: tuple[int, Samples, tuple[str, ...]] | None = field(default=None, init=False)

    @functools.cached_property
    def bench(self) -> Workbench:
        """The model and the images, made ready when they are first needed."""
        torch.set_num_threads(self.threads)
        return set_up(pickle.loads(self.recipe))  # noqa: S301 (made by the process that gives the tasks)

    def get_ready(self) -> Answer:
        """Open model and images, so that the first task takes no longer than any other."""
        try:
            _ = self.bench
        except DeviceLostError as error:
            return Answer(lost=str(error))
        except AuditError as error:
            return Answer(stop=f"a worker on {platform.node()} does not get ready: {error}")
        return Answer()

    def do(self, task: Task) -> Answer:
        """Do one task."""
        try:
            if task.shard is None:
                return Answer(learn_lesson(self.bench, self.store, task))
            samples, digests = self._read(task.shard)
            check_circumstances(self.bench, task, digests)
            return Answer(judge_samples(self.bench, self.store, task, samples, Silent()))
        except DeviceLostError as error:
            return Answer(lost=str(error))
        except OtherCircumstancesError as error:
            return Answer(stop=str(error))
        except AuditError as error:
            return Answer(failure=str(error))

    def _read(self, shard: int) -> tuple[Samples, tuple[str, ...]]:
        if self._shard is None or self._shard[0] != shard:
            # Not two shards at a time in memory.
            self._shard = None
            samples = self.bench.read(*self.bench.shards[shard]).samples
            self._shard = shard, samples, samples.digests()
        return self._shard[1:]
