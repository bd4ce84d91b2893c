"""Worker processes on this machine: one that dies, hangs or takes too much memory takes only its task with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from auditkit.executors.dispatch import Ended
from auditkit.executors.order import Order
from auditkit.executors.serving import serve
from auditkit.executors.worker import Answer
from auditkit.executors.zygote import Forked, Zygote
from auditkit.units import Task

__all__ = ["Processes"]

_SPAWN = multiprocessing.get_context("spawn")
_GIGABYTE = 1e9
_SECONDS_BETWEEN_LOOKS = 0.5
# A process that closed its connection is about to end.
_SECONDS_TO_END = 10.0
_SAFE_PATH = "PYTHONSAFEPATH"


@dataclass
class _Process:
    process: BaseProcess | Forked
    connection: Connection
    busy: bool = False
    ready: bool = False
    """Whether it has opened model and images; it does so before its first task."""
    began: float | None = None
    """When it began with its task."""
    too_large: bool = False


@dataclass
class Processes:
    """Processes that are started when they are first needed."""

    order: Order
    """What each of them is to be."""
    count: int
    zygote: Zygote | None = None
    """What they are forked of; None: each imports everything for itself."""
    memory_limit: float | None = None
    """Gigabytes that one may hold in memory (POSIX systems with /proc only)."""
    _running: dict[int, _Process] = field(default_factory=dict, init=False)

    def idle(self) -> Sequence[int]:
        """Return the workers that have nothing to do, those that are not started yet last."""
        started = [number for number, worker in self._running.items() if not worker.busy]
        unused = [number for number in range(self.count) if number not in self._running]
        return started + unused

    def give(self, worker: int, task: Task) -> None:
        """Let a worker that is idle do a task."""
        if worker not in self._running:
            self._running[worker] = self._started()
        running = self._running[worker]
        running.busy = True
        running.began = time.monotonic() if running.ready else None
        with contextlib.suppress(BrokenPipeError):  # it died: waiting for it will tell
            running.connection.send(task)

    def began(self, worker: int) -> float | None:
        """Return when a worker began with its task; None: it is still getting ready."""
        return self._running[worker].began

    def wait(self, seconds: float | None) -> Sequence[Ended]:
        """Wait until something happens, or for so long; return the tasks that ended."""
        if self.memory_limit is not None:
            seconds = min(seconds, _SECONDS_BETWEEN_LOOKS) if seconds is not None else _SECONDS_BETWEEN_LOOKS
            self._stop_the_large(self.memory_limit)
        busy = {running.connection: number for number, running in self._running.items() if running.busy}
        heard = [busy[ready] for ready in wait(list(busy), seconds) if isinstance(ready, Connection)]
        return [ended for worker in heard if (ended := self._heard(worker)) is not None]

    def dismiss(self, worker: int) -> None:
        """Stop a worker in the middle of its task; another takes its place."""
        running = self._running.pop(worker)
        running.process.kill()
        running.process.join()
        running.connection.close()

    def close(self) -> None:
        """Stop all."""
        for worker in list(self._running):
            self.dismiss(worker)

    def _started(self) -> _Process:
        ours, theirs = _SPAWN.Pipe()
        with theirs:
            return _Process(self._forked(theirs) or self._spawned(theirs), ours)

    def _forked(self, connection: Connection) -> Forked | None:
        return self.zygote.fork(self.order, connection) if self.zygote is not None else None

    def _spawned(self, connection: Connection) -> BaseProcess:
        process = _SPAWN.Process(target=serve, args=(connection, self.order), name="auditkit worker")
        with _safe_path():
            process.start()
        return process

    def _heard(self, worker: int) -> Ended | None:
        """Return how a worker's task ended; None: it is only ready to begin with it."""
        running = self._running[worker]
        try:
            answer: Answer = running.connection.recv()
        except (EOFError, ConnectionResetError):
            running.process.join(_SECONDS_TO_END)
            # This happens to a task once at most: the workers that follow are not forked.
            blameless = isinstance(running.process, Forked) and running.process.zygote.is_gone
            death = f"it took more than {self.memory_limit:g} GB of memory" if running.too_large else _death(running)
            self.dismiss(worker)
            return Ended(worker, death=death, blameless=blameless)
        if not running.ready and answer == Answer():
            running.ready, running.began = True, time.monotonic()
            return None
        running.busy = False
        if answer.lost is not None:
            self.dismiss(worker)
        return Ended(worker, answer)

    def _stop_the_large(self, limit: float) -> None:
        for running in self._running.values():
            if running.busy and _resident(running.process.pid) > limit * _GIGABYTE:
                running.too_large = True
                running.process.kill()


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Let Python, where it is started, import no module that happens to lie in the current folder."""
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        del os.environ[_SAFE_PATH]
        if before is not None:
            os.environ[_SAFE_PATH] = before


def _death(running: _Process) -> str:
    """Return in words how a process died."""
    code = running.process.exitcode
    if code is None:
        return "its process closed its connection to the audit"
    if code >= 0:
        return f"its process ended by itself (os._exit or the like, exit code {code})"
    name = signal.Signals(-code).name
    reason = "killed from outside, perhaps for want of memory" if name == "SIGKILL" else "a crash in native code"
    return f"its process died ({name}: {reason})"


def _resident(pid: int | None) -> int:
    """Return how many bytes a process holds in memory; 0 where that cannot be known."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
