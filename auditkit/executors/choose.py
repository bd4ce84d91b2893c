"""Which executor the settings ask for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from auditkit.executors.dispatch import Dispatcher, Executor
from auditkit.executors.order import Order
from auditkit.executors.processes import Processes
from auditkit.executors.ray_crew import RayCrew, on_cluster
from auditkit.executors.recipe import is_portable, portable
from auditkit.executors.zygote import Zygote
from auditkit.progress import Progress
from auditkit.store import Store
from auditkit.units import Task
from auditkit.workbench import Workbench

__all__ = ["apart", "executor_for", "worker_processes"]


@contextlib.contextmanager
def executor_for(
    bench: Workbench, store: Store, progress: Progress, zygote: Zygote | None = None
) -> Iterator[Executor | None]:
    """Yield what does the units elsewhere, as the settings say; None: they are done in this process.

    Raises:
        UsageError: model or data live in this process only, or there is no such cluster.
    """
    settings = bench.recipe.settings
    if settings.executor == "ray":
        with _on_ray(bench, store, progress) as executor:
            yield executor
    elif settings.workers:
        with worker_processes(bench, store, progress, settings.workers, zygote) as executor:
            yield executor
    else:
        yield None


@contextlib.contextmanager
def worker_processes(
    bench: Workbench, store: Store, progress: Progress, count: int, zygote: Zygote | None = None
) -> Iterator[Executor]:
    """Yield what does units in `count` processes on this machine; what comes out is the same as in one.

    Raises:
        UsageError: model or data live in this process only.
    """
    settings = bench.recipe.settings
    threads = max(1, torch.get_num_threads() // count)
    order = Order(portable(bench, str(bench.model.device)), threads, store.folder)
    with contextlib.closing(Processes(order, count, zygote, settings.memory_limit)) as crew:
        yield Dispatcher(crew, settings.time_limit, _teller(bench, progress))


@contextlib.contextmanager
def apart(bench: Workbench, store: Store, progress: Progress) -> Iterator[Executor | None]:
    """Yield what does units in a process of their own; None where model or data live in this process only."""
    if not is_portable(bench.recipe):
        yield None
        return
    with worker_processes(bench, store, progress, 1) as executor:
        yield executor


@contextlib.contextmanager
def _on_ray(bench: Workbench, store: Store, progress: Progress) -> Iterator[Executor]:
    settings = bench.recipe.settings
    # Each worker sees the GPU that Ray gave it as its first.
    recipe = portable(bench, bench.model.device.type)
    gpus = settings.gpus_per_worker if bench.model.device.type == "cuda" else 0.0
    with (
        on_cluster(settings.ray_address),
        contextlib.closing(RayCrew(recipe, settings.workers, 1, gpus, store)) as crew,
    ):
        yield Dispatcher(crew, settings.time_limit, _teller(bench, progress))


def _teller(bench: Workbench, progress: Progress) -> Callable[[Task], None]:
    """Return what tells progress of tasks that ended elsewhere."""
    shards = bench.shards

    def tell(task: Task) -> None:
        if task.shard is not None:
            start, stop = shards[task.shard]
            progress.advance(stop - start, task.planned.key)

    return tell
