"""Units in worker processes: one that dies takes nothing with it but its own unit."""

from __future__ import annotations

import functools
import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from auditkit.engine import Progress, Task, run_task
from auditkit.errors import AuditError, UsageError
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
        orders = [_Order(_portable(bench), _threads(count), store.folder, task) for task in tasks]
        return _Pool(count, bench.recipe.settings.time_limit, progress, bench).run(orders)

    return compute


def _threads(count: int) -> int:
    return max(1, torch.get_num_threads() // count)


def _portable(bench: Workbench) -> bytes:
    recipe = bench.recipe
    if isinstance(recipe.model, nn.Module) or not isinstance(recipe.data, str | Path):
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

    def run(self, orders: list[_Order]) -> dict[str, str]:
        failures, lost = self._together(orders)
        # A dead process breaks the pool for everybody: each unit that was under way gets a process of its own, so
        # that only the guilty one fails.
        for order in lost:
            key = order.task.planned.key
            if key in failures:
                self._advance(order)
                continue
            failure = self._alone(order)
            if failure is not None:
                failures[key] = failure
            self._advance(order)
        return failures

    def _together(self, orders: list[_Order]) -> tuple[dict[str, str], list[_Order]]:
        failures: dict[str, str] = {}
        lost: list[_Order] = []
        with self._executor(self.count) as executor:
            waiting: dict[Future[str | None], _Order] = {executor.submit(_do, order): order for order in orders}
            while waiting:
                done, _ = wait(waiting, timeout=self._patience, return_when=FIRST_COMPLETED)
                if not done:
                    _kill(executor)
                for future in done:
                    order = waiting.pop(future)
                    try:
                        failure = future.result()
                    except BrokenProcessPool:
                        lost.append(order)
                        continue
                    if failure is not None:
                        failures[order.task.planned.key] = failure
                    self._advance(order)
        lost.sort(key=lambda order: orders.index(order))
        return failures, lost

    def _alone(self, order: _Order) -> str | None:
        with self._executor(1) as executor:
            future = executor.submit(_do, order)
            done, _ = wait([future], timeout=self._patience)
            if not done:
                _kill(executor)
                return f"stopped: it did not end within its time limit of {self.time_limit:g} s a shard"
            try:
                return future.result()
            except BrokenProcessPool:
                return "its process died (a crash in native code, out of memory, or os._exit)"

    @property
    def _patience(self) -> float | None:
        return None if self.time_limit is None else self.time_limit + _GRACE_SECONDS

    def _executor(self, count: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))

    def _advance(self, order: _Order) -> None:
        start, stop = self.bench.shards[order.task.shard]
        self.progress.advance(stop - start, order.task.planned.key)


def _kill(executor: ProcessPoolExecutor) -> None:
    for process in list((executor._processes or {}).values()):
        process.kill()


class _Silent:
    def start(self, total: int) -> None:
        """Nobody watches a worker."""

    def advance(self, pairs: int, key: str) -> None:
        """Nobody watches a worker."""


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
    return run_task(bench, Store(order.store), order.task, samples, _Silent())
