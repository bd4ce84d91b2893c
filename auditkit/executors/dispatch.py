"""Which worker does which task: one at a time each, a shard's by one worker, and a second try after a death."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from auditkit.errors import ExecutionError
from auditkit.executors.worker import Answer
from auditkit.units import Task

__all__ = ["Crew", "Dispatcher", "Ended", "Executor"]

# Beyond a unit's own time limit, for reading the shard, and for a check that looks at the clock rarely.
_GRACE_SECONDS = 60.0
# Opening a large model from a slow disk, beside others that do the same.
_SECONDS_TO_GET_READY = 600.0
# A process may die of what others do, such as using up the memory; of one that dies twice it is the fault.
_MOST_DEATHS = 2


class Executor(Protocol):
    """Does tasks somewhere else."""

    def do(self, tasks: Iterable[Task]) -> dict[str, str]:
        """Do tasks, which are asked for as workers become free; return why checks failed, by key."""
        ...


@dataclass(frozen=True)
class Ended:
    """What became of a worker's task."""

    worker: int
    answer: Answer | None = None
    """None: the worker died in it, and another takes its place."""
    death: str = ""
    """What is known about that."""
    blameless: bool = False
    """Whether the task is not taken for the reason: its machine is gone, or what the worker was forked of."""


class Crew(Protocol):
    """Workers, each known by a number for as long as it lives."""

    def idle(self) -> Sequence[int]:
        """Return the workers that have nothing to do."""
        ...

    def give(self, worker: int, task: Task) -> None:
        """Let a worker that is idle do a task."""
        ...

    def began(self, worker: int) -> float | None:
        """Return when a worker began with its task (of the monotonic clock); None: it is still getting ready."""
        ...

    def wait(self, seconds: float | None) -> Sequence[Ended]:
        """Wait until something happens, or for so long; return the tasks that ended."""
        ...

    def dismiss(self, worker: int) -> None:
        """Stop a worker in the middle of its task; another takes its place."""
        ...


@dataclass
class Dispatcher:
    """Keeps a crew busy."""

    crew: Crew
    time_limit: float | None
    """Seconds a task may take by itself; a minute later its worker is stopped."""
    ended: Callable[[Task], None]
    """Told of every task that is done, failed or left out."""
    _failures: dict[str, str] = field(default_factory=dict, init=False)
    _deaths: Counter[str] = field(default_factory=Counter, init=False)
    _under_way: dict[int, tuple[Task, float]] = field(default_factory=dict, init=False)
    _last_shard: dict[int, int | None] = field(default_factory=dict, init=False)

    def do(self, tasks: Iterable[Task]) -> dict[str, str]:
        """Do tasks; return why checks failed, by key.

        Raises:
            ExecutionError: a worker sees another model or other images than this process, or there are no workers.
        """
        self._failures = {}
        backlog = _Backlog(iter(tasks))
        while True:
            self._hand_out(backlog)
            if not self._under_way and backlog.is_empty():
                return self._failures
            # While the workers are at it, their next tasks are made ready.
            backlog.fill(len(self._under_way) + 1)
            for ended in self.crew.wait(self._time_left()):
                self._end(ended, backlog)
            self._stop_overdue()

    def _hand_out(self, backlog: _Backlog) -> None:
        for worker in self.crew.idle():
            task = self._next(backlog, worker)
            if task is None and self._under_way:
                continue
            if task is None:
                return
            self._under_way[worker] = task, time.monotonic()
            self._last_shard[worker] = task.shard
            self.crew.give(worker, task)

    def _next(self, backlog: _Backlog, worker: int) -> Task | None:
        """Return the next task for a worker; those of checks that failed meanwhile are left out."""
        others = {task.shard for task, _ in self._under_way.values()}
        while (task := backlog.take(self._last_shard.get(worker), others)) is not None:
            if task.planned.key not in self._failures:
                return task
            self.ended(task)
        return None

    def _end(self, ended: Ended, backlog: _Backlog) -> None:
        task, _ = self._under_way.pop(ended.worker)
        answer = ended.answer
        if answer is not None and answer.stop is not None:
            raise ExecutionError(answer.stop)
        death = ended.death if answer is None else answer.lost
        if death is None:
            self._finish(task, answer.failure if answer is not None else None)
            return
        self._deaths[task.digest] += not ended.blameless
        if self._deaths[task.digest] < _MOST_DEATHS:
            backlog.put_back(task)
        else:
            self._finish(task, f"{death}, twice")

    def _finish(self, task: Task, failure: str | None) -> None:
        if failure is not None:
            self._failures.setdefault(task.planned.key, failure)
        self.ended(task)

    def _time_left(self) -> float | None:
        if self.time_limit is None or not self._under_way:
            return None
        return max(0.0, min(map(self._deadline, self._under_way)) - time.monotonic())

    def _deadline(self, worker: int) -> float:
        """Return when a worker is to be stopped, by the monotonic clock."""
        began = self.crew.began(worker)
        if began is None or self.time_limit is None:
            return self._under_way[worker][1] + _SECONDS_TO_GET_READY
        return began + self.time_limit + _GRACE_SECONDS

    def _stop_overdue(self) -> None:
        if self.time_limit is None:
            return
        now = time.monotonic()
        for worker in [worker for worker in self._under_way if self._deadline(worker) <= now]:
            task, _ = self._under_way.pop(worker)
            why = f"stopped: it did not end within its time limit of {self.time_limit:g} s a shard"
            if self.crew.began(worker) is None:
                why = f"stopped: its worker did not get ready within {_SECONDS_TO_GET_READY:g} s"
            self.crew.dismiss(worker)
            self._finish(task, why)


@dataclass
class _Backlog:
    """Tasks that wait for a worker; no more of them are asked for than it takes to keep all workers busy."""

    more: Iterator[Task]
    waiting: deque[Task] = field(default_factory=deque)

    def is_empty(self) -> bool:
        self.fill(1)
        return not self.waiting

    def fill(self, shards: int) -> None:
        """Ask for tasks until those of so many shards wait, or there are no more."""
        while len({task.shard for task in self.waiting}) < shards:
            task = next(self.more, None)
            if task is None:
                return
            self.waiting.append(task)

    def take(self, shard: int | None, others: set[int | None]) -> Task | None:
        """Return a task of this shard, else of one on which no other worker is, else any, else None."""
        self.fill(len(others) + 1)
        if not self.waiting:
            return None
        ranked = min(
            range(len(self.waiting)),
            key=lambda at: (self.waiting[at].shard != shard, self.waiting[at].shard in others, at),
        )
        task = self.waiting[ranked]
        del self.waiting[ranked]
        return task

    def put_back(self, task: Task) -> None:
        self.waiting.appendleft(task)
