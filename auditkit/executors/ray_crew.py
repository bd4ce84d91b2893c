"""Workers on a Ray cluster (Moritz et al. 2018, https://arxiv.org/abs/1712.05889), on whatever machines it has."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from auditkit.errors import ExecutionError, UsageError
from auditkit.executors.dispatch import Ended
from auditkit.executors.worker import Answer, Worker
from auditkit.store import Store
from auditkit.units import Task

__all__ = ["RayCrew", "on_cluster"]

# A cluster that grows by itself needs minutes for a new machine.
_SECONDS_FOR_A_PLACE = 600.0
_SECONDS_BETWEEN_LOOKS = 5.0
_SECONDS_TO_ANSWER = 10.0
_MOST_FAILED_STARTS = 8


@contextlib.contextmanager
def on_cluster(address: str | None) -> Iterator[None]:
    """Connect to a cluster (`address`, else one that this process is connected to), or start one on this machine.

    Raises:
        UsageError: Ray is not installed, or there is no cluster at that address.
    """
    try:
        # Whoever audits did not agree to tell anybody; Ray reads this when it is imported.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
    except ImportError:
        raise UsageError("--executor ray needs Ray: pip install 'auditkit[ray]'") from None
    if ray.is_initialized():
        yield
        return
    try:
        _check_that_somebody_listens(address)
        ray.init(
            address=address or "local",
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, RuntimeError) as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"no Ray cluster at {address or 'this machine'}: {text}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_that_somebody_listens(address: str | None) -> None:
    """Raise an OSError where nobody does: Ray itself takes minutes to say so."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()


class _Actor:
    """A worker on a machine of the cluster; units and lessons come and go as bytes, for it shares no disk."""

    def __init__(self, recipe: bytes, threads: int) -> None:
        # Not the with statement: it lives as long as the process.
        self._folder = tempfile.TemporaryDirectory(prefix="auditkit-")
        self._worker = Worker(recipe, threads, Store(Path(self._folder.name)))

    def get_ready(self) -> tuple[str, Answer]:
        """Open model and images; return the machine's name in the cluster, and how that went."""
        import ray

        return ray.get_runtime_context().get_node_id(), self._worker.get_ready()

    def do(self, task: Task, needed: Mapping[str, bytes]) -> tuple[Answer, bytes | None]:
        """Do a task that needs some units; return what it left behind, too."""
        store = self._worker.store
        for digest, content in needed.items():
            if not store.holds(digest):
                store.put_bytes(digest, content)
        answer = self._worker.do(task)
        done = answer == Answer()
        left = store.get_bytes(task.digest) if done else None
        for digest in (task.digest, *(digest for _, digest in task.reads)):
            store.drop(digest)
        return answer, left


@dataclass
class _Place:
    actor: Any
    ready: Any
    """Reference to the name of its machine, and how it got ready."""
    since: float
    """When it was started, and then when it began with its task."""
    node: str | None = None
    task: Task | None = None
    answer: Any = None


@dataclass
class RayCrew:
    """Actors of a cluster that this process is connected to; one that dies is replaced wherever there is room."""

    recipe: bytes
    count: int
    """At most so many; 0: as many as the cluster has room for."""
    threads: int
    gpus: float
    """The share of a GPU that each takes."""
    store: Store
    _places: dict[int, _Place] = field(default_factory=dict, init=False)
    _numbers: Iterator[int] = field(default_factory=itertools.count, init=False)
    _failed_starts: int = field(default=0, init=False)

    def idle(self) -> Sequence[int]:
        """Return the actors that are ready and have nothing to do; wait for one where there is none at all."""
        import ray

        while True:
            self._fill_up()
            for number, place in list(self._places.items()):
                if place.node is None and ray.wait([place.ready], timeout=0)[0]:
                    self._settle(number, place)
            free = [number for number, place in self._places.items() if place.node is not None and place.task is None]
            if free or any(place.task is not None for place in self._places.values()):
                return free
            self._await_a_place()

    def give(self, worker: int, task: Task) -> None:
        """Let an actor that is idle do a task."""
        place = self._places[worker]
        needed = [digest for _, digest in task.reads] + ([task.lesson] if task.lesson is not None else [])
        place.task, place.since = task, time.monotonic()
        place.answer = place.actor.do.remote(task, {digest: self.store.get_bytes(digest) for digest in needed})

    def began(self, worker: int) -> float:
        """Return when a worker began with its task: one is given none before it is ready."""
        return self._places[worker].since

    def wait(self, seconds: float | None) -> Sequence[Ended]:
        """Wait until something happens, or for so long; return the tasks that ended."""
        import ray

        busy = {place.answer: number for number, place in self._places.items() if place.task is not None}
        coming = [place.ready for place in self._places.values() if place.node is None]
        seconds = min(seconds, _SECONDS_BETWEEN_LOOKS) if seconds is not None else _SECONDS_BETWEEN_LOOKS
        watched = [*busy, *coming]
        ready, _ = ray.wait(watched, num_returns=1, timeout=seconds, fetch_local=False)
        # All that is there by now, not only the first.
        ready, _ = ray.wait(watched, num_returns=len(watched), timeout=0, fetch_local=False) if ready else ([], [])
        return [self._ended(busy[answer]) for answer in ready if answer in busy]

    def dismiss(self, worker: int) -> None:
        """Stop an actor in the middle of its task; another takes its place."""
        import ray

        ray.kill(self._places.pop(worker).actor)

    def close(self) -> None:
        """Stop all."""
        for worker in list(self._places):
            self.dismiss(worker)

    def _fill_up(self) -> None:
        import ray

        if not self.count:
            self.count = _room(ray.cluster_resources(), self.threads, self.gpus)
        remote = ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_restarts=0)(_Actor)
        while len(self._places) < self.count:
            actor = remote.remote(self.recipe, self.threads)
            self._places[next(self._numbers)] = _Place(actor, actor.get_ready.remote(), time.monotonic())

    def _settle(self, number: int, place: _Place) -> None:
        """Note on which machine an actor lives; replace one that died before it was given anything."""
        import ray

        try:
            node, answer = ray.get(place.ready)
        except ray.exceptions.RayError as error:
            del self._places[number]
            self._start_failed(_last_line(error))
            return
        if answer.stop is not None:
            raise ExecutionError(answer.stop)
        if answer.lost is not None:
            self.dismiss(number)
            self._start_failed(answer.lost)
            return
        place.node = node

    def _start_failed(self, reason: str) -> None:
        self._failed_starts += 1
        if self._failed_starts > _MOST_FAILED_STARTS:
            raise ExecutionError(f"workers on the Ray cluster do not start: {reason}")

    def _await_a_place(self) -> None:
        import ray

        waiting = [place.ready for place in self._places.values()]
        if not waiting:
            return
        oldest = min(place.since for place in self._places.values())
        if time.monotonic() - oldest > _SECONDS_FOR_A_PLACE:
            raise ExecutionError(
                f"the Ray cluster has no room for a worker: wanted {self.threads} CPU and {self.gpus:g} GPU, there are "
                f"{ray.cluster_resources().get('CPU', 0):g} and {ray.cluster_resources().get('GPU', 0):g} in all"
            )
        ray.wait(waiting, num_returns=1, timeout=_SECONDS_BETWEEN_LOOKS)

    def _ended(self, worker: int) -> Ended:
        import ray

        place = self._places[worker]
        try:
            answer, content = ray.get(place.answer)
        except ray.exceptions.RayTaskError:
            raise  # no fault of a check or a machine, but of this program
        except ray.exceptions.RayError as error:
            del self._places[worker]
            return Ended(worker, death=_death(error), blameless=_is_gone(place.node, error))
        assert place.task is not None  # noqa: S101 (it had been given one)
        if content is not None:
            self.store.put_bytes(place.task.digest, content)
        place.task = place.answer = None
        if answer.lost is not None:
            self.dismiss(worker)
        return Ended(worker, answer)


def _room(resources: Mapping[str, float], threads: int, gpus: float) -> int:
    """Return how many workers a cluster has room for, at least one."""
    by_cpu = int(resources.get("CPU", 0) // threads)
    by_gpu = int(resources.get("GPU", 0) // gpus) if gpus else by_cpu
    return max(1, min(by_cpu, by_gpu))


def _death(error: Exception) -> str:
    import ray

    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "its process was stopped by Ray for want of memory"
    return "its process died (a crash in native code, out of memory, or os._exit)"


def _is_gone(node: str | None, error: Exception) -> bool:
    """Return whether an actor died because its machine left the cluster."""
    import ray

    alive = {each["NodeID"] for each in ray.nodes() if each["Alive"]}
    return node not in alive or "node has died" in str(error)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
