"""A process that has imported everything once, and of which worker processes are forked.

Importing torch and auditkit takes seconds, a fork takes milliseconds, and what was imported is in memory once. The
zygote does nothing but import: neither threads of torch nor a GPU, which do not live through a fork, are in use in it.
That is why it knows nothing of the program that audits, unlike a process that multiprocessing starts, which runs the
main module again. This module itself imports little, so that a zygote can import while its program does the same.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import recv_handle, send_handle
from typing import Literal

from auditkit.config import Settings
from auditkit.executors.order import Order

__all__ = ["Forked", "Zygote", "be_zygote", "zygote_for"]

# Ctrl-C reaches every process of a terminal; the one that audits answers alone, and ends the others.
_PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.path[:] = sys.argv[2:]
from auditkit.executors.zygote import be_zygote
be_zygote(int(sys.argv[1]))
"""
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
        self._link, theirs = multiprocessing.Pipe()
        with theirs:
            handle = theirs.fileno()
            # -P: no module is imported that happens to lie in the current folder.
            command = [sys.executable, "-P", "-c", _PROGRAM, str(handle), *sys.path]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[handle])  # noqa: S603 (its own program)
        self._numbers = itertools.count()

    def fork(self, order: Order, connection: Connection) -> Forked | None:
        """Return a new worker process that serves a connection; None: the zygote cannot do it.

        It is gone, did not get ready, or the order speaks of the main module of the program that audits.
        """
        if b"__main__" in order.recipe:
            return None
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
        self._process.wait()

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
def zygote_for(settings: Settings) -> Iterator[Zygote | None]:
    """Yield what the worker processes of an audit will be forked of; None: it will have none on this machine.

    None also on systems where a fork is no safe thing (macOS) or there is none (Windows).
    """
    if settings.executor != "local" or not settings.workers or sys.platform != "linux":
        yield None
        return
    with contextlib.closing(Zygote()) as zygote:
        yield zygote


def be_zygote(handle: int) -> None:
    """Fork workers, kill them and wait for them, as the connection with this handle says, until it is closed."""
    link = Connection(handle)
    # What takes seconds; every worker finds it there.
    importlib.import_module("auditkit.executors.serving")
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
    from auditkit.executors.serving import serve

    serve(connection, order)
