"""Units in worker processes: one that dies takes nothing with it but its own unit."""

from __future__ import annotations

import functools
import multiprocessing
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from auditkit.engine import Task, run_task
from auditkit.errors import AuditError, UsageError
from auditkit.progress import Progress, Silent
from auditkit.samples import Samples
from auditkit.store import Store
from auditkit.workbench import Workbench, set_up

__all__ = ["in_processes"]

# Beyond a unit's own time limit, for reading the shard and for a check that looks at the clock rarely.
_GRACE_SECONDS = 60.0


@dataclass(frozen=True)
class _Order:
    recipe: bytes
    threads: int
    store: Path
    task: Task


def in_processes(count: int) -> Callable[[Workbench, Store, Sequence[Task], Progress], dict[str, str]]:
    """Return a way to do tasks in `count` processes; what comes out is the same as in one."""

    def compute(bench: Workbench, store: Store, tasks: Sequence[Task], progress: Progress) -> dict[str, str]:
        recipe = _portable(bench)
        orders = [_Order(recipe, _threads(count), store.folder, task) for task in tasks]
        return _Pool(count, bench.recipe.settings.time_limit, progress, bench).run(orders)

    return compute


def _threads(count: int) -> int:
    return max(1, torch.get_num_threads() // count)


def _portable(bench: Workbench) -> bytes:
    recipe = bench.recipe
    named = isinstance(recipe.data, str | Path) and isinstance(recipe.settings.ood, str | Path | None)
    if isinstance(recipe.model, nn.Module) or not named:
        raise UsageError(
            "worker processes need a model and data given by path or module:factory; with objects in memory use "
            "workers=0"
        )
    precision = str(bench.search.dtype).removeprefix("torch.") if bench.search is not None else "float32"
    settings = recipe.settings.model_copy(update={"precision": precision})
    return pickle.dumps(replace(recipe, settings=settings))


@dataclass
class _Pool:
    count: int
    time_limit: float | None
    progress: Progress
    bench: Workbench
    failures: dict[str, str] = field(default_factory=dict)

    def run(self, orders: list[_Order]) -> dict[str, str]:
        waiting = deque(orders)
        while waiting:
            # A dead process breaks its pool for everybody: what was under way gets a process of its own, so that only
            # the guilty unit fails.
            for suspect in self._work(waiting, self.count):
                if self._work(deque([suspect]), 1):
                    self._end(suspect, "its process died (a crash in native code, out of memory, or os._exit)")
        return self.failures

    def _work(self, waiting: deque[_Order], count: int) -> list[_Order]:
        """Do what is waiting in `count` processes; return what was under way when one of them died."""
        running: dict[Future[str | None], tuple[_Order, float]] = {}
        context = multiprocessing.get_context("spawn")
        # Ctrl-C reaches every process of a terminal; this one alone answers, and ends the others.
        with ProcessPoolExecutor(count, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as executor:
            try:
                while self._fill(executor, waiting, running, count):
                    done, _ = wait(running, timeout=self._time_left(running), return_when=FIRST_COMPLETED)
                    for future in done:
                        self._end(running[future][0], future.result())
                        del running[future]
                    if self._time_left(running) == 0:
                        _kill(executor)
                        return self._stop_overdue(running)
            except BrokenProcessPool:
                return [order for order, _ in running.values()]
            except BaseException:
                _kill(executor)
                raise
        return []

    def _fill(
        self,
        executor: ProcessPoolExecutor,
        waiting: deque[_Order],
        running: dict[Future[str | None], tuple[_Order, float]],
        count: int,
    ) -> bool:
        """Give every process something to do, and no more, so that it is known what a process does."""
        while waiting and len(running) < count:
            if waiting[0].task.planned.key in self.failures:
                self._end(waiting.popleft(), None)
                continue
            future = executor.submit(_do, waiting[0])
            running[future] = waiting.popleft(), time.monotonic()
        return bool(running)

    def _time_left(self, running: dict[Future[str | None], tuple[_Order, float]]) -> float | None:
        if self.time_limit is None or not running:
            return None
        first = min(began for _, began in running.values())
        return max(0.0, first + self.time_limit + _GRACE_SECONDS - time.monotonic())

    def _stop_overdue(self, running: dict[Future[str | None], tuple[_Order, float]]) -> list[_Order]:
        """Fail the order that is under way for longest; return the others, which were stopped through no fault."""
        overdue, *others = sorted(running.values(), key=lambda item: item[1])
        self._end(overdue[0], f"stopped: it did not end within its time limit of {self.time_limit:g} s a shard")
        return [order for order, _ in others]

    def _end(self, order: _Order, failure: str | None) -> None:
        if failure is not None:
            self.failures[order.task.planned.key] = failure
        start, stop = self.bench.shards[order.task.shard]
        self.progress.advance(stop - start, order.task.planned.key)


def _kill(executor: ProcessPoolExecutor) -> None:
    for process in list((executor._processes or {}).values()):
        process.kill()


@functools.cache
def _bench(recipe: bytes) -> Workbench:
    return set_up(pickle.loads(recipe))  # noqa: S301 (made by the parent process)


@functools.lru_cache(maxsize=1)
def _shard(recipe: bytes, shard: int) -> Samples:
    bench = _bench(recipe)
    return bench.read(*bench.shards[shard]).samples


def _do(order: _Order) -> str | None:
    """Do one unit in a worker process; return why it failed."""
    torch.set_num_threads(order.threads)
    try:
        bench = _bench(order.recipe)
        samples = _shard(order.recipe, order.task.shard)
    except AuditError as error:
        return str(error)
    return run_task(bench, Store(order.store), order.task, samples, Silent())
