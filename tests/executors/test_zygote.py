"""The process that workers are forked of: it does not outlive an audit, and an audit outlives it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import faulty_checks
import pytest
from killed_audits import made_files

from auditkit.config import settings_from
from auditkit.engine import Hands, execute
from auditkit.executors.choose import worker_processes
from auditkit.executors.order import Order
from auditkit.executors.recipe import portable
from auditkit.executors.zygote import Zygote
from auditkit.journal import Journal
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.progress import Silent
from auditkit.store import Store
from auditkit.workbench import Recipe

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="zygotes are for Linux")


@pytest.fixture
def bench(tmp_path):
    return set_up(Recipe(*made_files(tmp_path), settings_from({"shard": 40, "precision": "float32"})))


@pytest.fixture
def zygote():
    with contextlib.closing(Zygote()) as zygote:
        yield zygote


def waiting(zygote, bench, folder):
    """Return a worker that waits for a task, and this end of its connection."""
    ours, theirs = multiprocessing.Pipe()
    worker = zygote.fork(Order(portable(bench, "cpu"), 1, folder), theirs)
    theirs.close()
    assert ours.recv().stop is None
    return worker, ours


def status(pid, field):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[field]


def is_alive(pid):
    try:
        return status(pid, 0) != "Z"
    except FileNotFoundError:
        return False


def test_a_worker_tells_how_it_ended_and_ends_when_nobody_talks_to_it_any_more(zygote, bench, tmp_path):
    killed, _ours = waiting(zygote, bench, tmp_path)
    left, connection = waiting(zygote, bench, tmp_path)
    killed.join(timeout=0)
    assert killed.exitcode is None
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    connection.close()
    left.join()
    assert left.exitcode == 0


def test_a_worker_that_nobody_waits_for_any_more_ends_without_a_word(zygote, bench, tmp_path):
    """Its audit was killed while it got ready; a traceback of it would be the last that a user sees."""
    ours, theirs = multiprocessing.Pipe()
    worker = zygote.fork(Order(portable(bench, "cpu"), 1, tmp_path), theirs)
    theirs.close()
    ours.close()
    worker.join()
    assert worker.exitcode == 0


def test_who_is_interrupted_while_waiting_for_one_worker_is_not_told_of_it_when_asking_for_another(
    zygote, bench, tmp_path
):
    """Ctrl-C in the middle of a wait: what comes next stops the workers, and must not mistake one for the other."""

    def interrupt(*_):
        raise KeyboardInterrupt

    workers = [waiting(zygote, bench, tmp_path) for _ in range(2)]
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    with pytest.raises(KeyboardInterrupt):
        workers[0][0].join(timeout=1)
    signal.signal(signal.SIGALRM, before)
    workers[1][0].kill()
    workers[1][0].join()
    assert workers[1][0].exitcode == -signal.SIGKILL


def test_an_order_that_speaks_of_the_main_module_is_for_a_process_that_runs_it(zygote):
    """What is defined in a script can be read by processes of multiprocessing only, which run the script again."""
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        assert zygote.fork(Order(pickle.dumps({"decode": b"__main__"}), 1, Path()), theirs) is None


def test_an_audit_goes_on_with_other_processes_when_the_zygote_is_killed(zygote, bench, tmp_path):
    kind = faulty_checks.KillsParentOnce
    plan = [configure(kind, {"mark": str(tmp_path / "killing")}, kind.spec.id, "tests 1")]
    store = Store(tmp_path / "units")
    with worker_processes(bench, store, Silent(), 2, zygote) as executor:
        execution = execute(bench, plan, store, Silent(), Journal(tmp_path, {}), Hands(executor))
    assert (tmp_path / "killing.done").exists()
    assert execution.failures == {}
    assert len(execution.units) == 2


def test_neither_zygote_nor_workers_outlive_an_audit_that_is_killed(bench, tmp_path):
    code = f"""
import multiprocessing, time
from pathlib import Path
from auditkit.executors.order import Order
from auditkit.executors.zygote import Zygote
zygote, (ours, theirs) = Zygote(), multiprocessing.Pipe()
worker = zygote.fork(Order({portable(bench, "cpu")!r}, 1, Path({str(tmp_path)!r})), theirs)
ours.recv()
print(worker.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as audit:
        worker = int(audit.stdout.readline())
        zygote = int(status(worker, 1))
        assert int(status(zygote, 1)) == audit.pid
        audit.kill()
    deadline = time.monotonic() + 60
    while is_alive(zygote) or is_alive(worker):
        assert time.monotonic() < deadline, "they live on"
        time.sleep(0.05)


def test_a_script_runs_once_with_workers_and_needs_no_guard(tmp_path):
    """Processes of multiprocessing run the script that starts them again: another audit in each, but for a guard."""
    model, data = made_files(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(
        "from auditkit import audit\nprint('begun', flush=True)\n"
        f"found = audit({str(model)!r}, {str(data)!r}, checks=['noise.gaussian'], workers=2, shard=40)\n"
        "print(found.result.checks[0].status)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["begun", "done"]
    assert done.stderr == ""
