"""What a worker process on this machine runs: it does what comes over its connection, and ends with its parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection

from auditkit.executors.order import Order
from auditkit.executors.worker import Worker
from auditkit.store import Store

__all__ = ["serve"]


def serve(connection: Connection, order: Order) -> None:
    """Do the tasks that come over a connection, and send how they ended, until it is closed."""
    # Ctrl-C reaches every process of a terminal; the one that audits answers alone, and ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    worker = Worker(order.recipe, order.threads, Store(order.store))
    with contextlib.suppress(EOFError, ConnectionError):
        answer = worker.get_ready()
        connection.send(answer)
        while answer.lost is None:
            answer = worker.do(connection.recv())
            connection.send(answer)


def _end_with_parent() -> None:
    """End this process as soon as its parent is gone, also in the middle of a task."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # noqa: S101 (whoever serves was started by another process)

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
