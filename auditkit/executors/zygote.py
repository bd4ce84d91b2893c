"""A process that has imported everything once, and of which worker processes are forked.

Importing torch and auditkit takes seconds, a fork takes milliseconds, and what was imported is in memory once. The
zygote does nothing but import: neither threads of torch nor a GPU, which do not live through a fork, are in use in it.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import recv_handle, send_handle
from typing import Literal

from auditkit.executors.serving import Order, serve

__all__ = ["Forked", "Zygote", "zygote_where_possible"]

_SPAWN = multiprocessing.get_context("spawn")
# On a slow disk, beside others that do the same.
_SECONDS_TO_IMPORT = 600.0


@dataclass(frozen=True)
class _Wish:
    number: int
    what: Order | Literal["kill", "join"]
    worker: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class _Reply:
    number: int
    """That of the wish."""
    pid: int
    exit_code: int | None


class Zygote:
    """A handle on the process; it begins to import at once, and nobody waits for it before the first fork."""

    def __init__(self) -> None:
        self.is_gone = False
        """Whether it was found to have died, and all its workers with it."""
        self._link, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_be_zygote, args=(theirs,), name="auditkit zygote")
        self._process.start()
        theirs.close()
        self._numbers = itertools.count()

    def fork(self, order: Order, connection: Connection) -> Forked | None:
        """Return a new worker process that serves a connection; None: the zygote is gone, or did not get ready."""
        try:
            wish = self._send(order)
            send_handle(self._link, connection.fileno(), self._process.pid)
            if not self._link.poll(_SECONDS_TO_IMPORT):
                self._process.kill()
            return Forked(self._receive(wish).pid, self)
        except (EOFError, OSError):
            self.is_gone = True
            return None

    def ask(self, what: Literal["kill", "join"], worker: int, seconds: float | None = None) -> int | None:
        """Kill a worker, or wait until it ends; return its exit code, None as long as it has none, or it is gone."""
        try:
            return self._receive(self._send(what, worker, seconds)).exit_code
        except (EOFError, OSError):
            self.is_gone = True
            return None

    def close(self) -> None:
        """End the process, and all that were forked of it."""
        self._link.close()
        # It would take more than a second to unload what it has imported.
        self._process.kill()
        self._process.join()

    def _send(self, what: Order | Literal["kill", "join"], worker: int = 0, seconds: float | None = None) -> int:
        wish = _Wish(next(self._numbers), what, worker, seconds)
        self._link.send(wish)
        return wish.number

    def _receive(self, number: int) -> _Reply:
        # Whoever waited for an earlier reply may have been interrupted.
        while (reply := self._link.recv()).number != number:
            pass
        assert isinstance(reply, _Reply)  # noqa: S101 (for mypy: a connection brings anything)
        return reply


@dataclass
class Forked:
    """A worker process that is the child of a zygote; the words are those of `multiprocessing.Process`."""

    pid: int
    zygote: Zygote
    exitcode: int | None = field(default=None, init=False)

    def kill(self) -> None:
        """End it at once."""
        self.zygote.ask("kill", self.pid)

    def join(self, timeout: float | None = None) -> None:
        """Wait until it has ended, or for so many seconds."""
        self.exitcode = self.zygote.ask("join", self.pid, timeout)


@contextlib.contextmanager
def zygote_where_possible() -> Iterator[Zygote | None]:
    """Yield a zygote; None on systems where a fork is no safe thing (macOS) or there is none (Windows)."""
    if sys.platform != "linux":
        yield None
        return
    with contextlib.closing(Zygote()) as zygote:
        yield zygote


def _be_zygote(link: Connection) -> None:
    """Fork workers, kill them and wait for them, as the link says, until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    workers: dict[int, BaseProcess] = {}
    with contextlib.suppress(EOFError, OSError):
        while True:
            wish: _Wish = link.recv()
            if isinstance(wish.what, Order):
                worker = _forked(wish.what, Connection(recv_handle(link)), link)
                workers[worker.pid or 0] = worker
            else:
                worker = workers[wish.worker]
                if wish.what == "kill":
                    worker.kill()
                else:
                    worker.join(wish.seconds)
            link.send(_Reply(wish.number, worker.pid or 0, worker.exitcode))
    for worker in workers.values():
        worker.kill()


def _forked(order: Order, connection: Connection, link: Connection) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(
        target=_be_worker, args=(link, connection, order), name="auditkit worker"
    )
    process.start()
    connection.close()
    return process


def _be_worker(link: Connection, connection: Connection, order: Order) -> None:
    # Else the auditing process would not notice that the zygote is gone.
    link.close()
    serve(connection, order)
