"""The dispatcher: every task is done once, whoever dies; whoever dies twice in one is not tried a third time."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditkit.errors import ExecutionError
from auditkit.executors import dispatch
from auditkit.executors.dispatch import Dispatcher, Ended
from auditkit.executors.worker import Answer
from auditkit.units import Task


@dataclass
class Check:
    """What the dispatcher looks at of a planned check."""

    key: str


def task(key, shard):
    return Task(Check(key), f"{key} {shard}", {}, shard)


def tasks(checks, shards):
    return [task(f"check {check}", shard) for shard in range(shards) for check in range(checks)]


class MadeCrew:
    """Workers that end in any order; what happens to a task is as its list of fates says, one each time."""

    def __init__(self, count, fates=None, seed=0):
        self.count, self.fates, self.random = (
            count,
            {key: list(fate) for key, fate in (fates or {}).items()},
            random.Random(seed),  # noqa: S311
        )
        self.busy, self.given, self.most_busy, self.since = {}, [], 0, {}

    def idle(self):
        return [number for number in range(self.count) if number not in self.busy]

    def give(self, worker, task):
        assert worker not in self.busy
        self.busy[worker] = task
        self.given.append((worker, task.digest))
        self.since[worker] = None if self.fates.get(task.digest, [])[:1] == ["never ready"] else time.monotonic()
        self.most_busy = max(self.most_busy, len(self.busy))

    def began(self, worker):
        return self.since[worker]

    def wait(self, seconds):
        stuck = (["hangs"], ["never ready"])
        hanging = [worker for worker, task in self.busy.items() if self.fates.get(task.digest, [])[:1] in stuck]
        able = [worker for worker in self.busy if worker not in hanging]
        if not able:
            return []
        worker = self.random.choice(able)
        fates = self.fates.get(self.busy.pop(worker).digest, [])
        fate = fates.pop(0) if fates else "done"
        match fate:
            case "dies":
                return [Ended(worker, death="it died")]
            case "node lost":
                return [Ended(worker, death="its machine is gone", blameless=True)]
            case "fails":
                return [Ended(worker, Answer(failure="boom"))]
            case "lost":
                return [Ended(worker, Answer(lost="cuda failed"))]
            case "stop":
                return [Ended(worker, Answer(stop="other images"))]
        return [Ended(worker, Answer())]

    def dismiss(self, worker):
        del self.busy[worker]


def dispatched(crew, given, **options):
    ended = []
    dispatcher = Dispatcher(crew, options.pop("time_limit", None), lambda task: ended.append(task.digest))
    return dispatcher.do(iter(given)), ended


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(0, 6),
    st.integers(0, 1000),
    st.lists(st.sampled_from(["dies", "node lost", "lost"]), max_size=1),
)
def test_every_task_ends_exactly_once_whoever_dies_once(workers, checks, shards, seed, fate):
    given_tasks = tasks(checks, shards)
    crew = MadeCrew(workers, {each.digest: fate for each in given_tasks}, seed)
    failures, ended = dispatched(crew, given_tasks)
    assert failures == {}
    assert sorted(ended) == sorted(each.digest for each in given_tasks)
    assert len(crew.given) == len(given_tasks) * (1 + len(fate))


def test_no_tasks_are_no_work():
    crew = MadeCrew(2)
    assert dispatched(crew, []) == ({}, [])
    assert crew.given == []


def test_a_task_in_which_two_workers_died_fails_its_check_and_no_other():
    given_tasks = tasks(2, 3)
    crew = MadeCrew(2, {"check 1 0": ["dies", "dies", "dies"]})
    failures, ended = dispatched(crew, given_tasks)
    assert failures == {"check 1": "it died, twice"}
    assert sorted(ended) == sorted(each.digest for each in given_tasks)
    assert [digest for _, digest in crew.given].count("check 1 0") == 2
    assert {digest for _, digest in crew.given} >= {"check 0 0", "check 0 1", "check 0 2"}


def test_machines_that_go_are_no_fault_of_the_task_however_many():
    crew = MadeCrew(2, {"check 0 0": ["node lost"] * 7})
    assert dispatched(crew, tasks(1, 2))[0] == {}


def test_a_device_that_fails_twice_in_one_task_fails_its_check():
    assert dispatched(MadeCrew(1, {"check 0 0": ["lost", "lost"]}), tasks(1, 1))[0] == {"check 0": "cuda failed, twice"}


def test_a_check_that_failed_is_not_tried_on_further_shards():
    crew = MadeCrew(1, {"check 0 0": ["fails"]})
    failures, ended = dispatched(crew, tasks(2, 4))
    assert failures == {"check 0": "boom"}
    assert len(ended) == 8
    assert [digest for _, digest in crew.given if digest.startswith("check 0")] == ["check 0 0"]


def test_a_worker_that_sees_other_images_stops_the_audit():
    with pytest.raises(ExecutionError, match="other images"):
        dispatched(MadeCrew(2, {"check 0 1": ["stop"]}), tasks(1, 3))


def test_a_task_that_hangs_is_stopped_and_fails_its_check(monkeypatch):
    monkeypatch.setattr(dispatch, "_GRACE_SECONDS", 0.0)
    failures, ended = dispatched(MadeCrew(2, {"check 0 0": ["hangs"]}), tasks(2, 2), time_limit=0.05)
    assert failures == {"check 0": "stopped: it did not end within its time limit of 0.05 s a shard"}
    assert len(ended) == 4


def test_getting_ready_is_no_part_of_a_tasks_time_but_does_not_last_for_ever(monkeypatch):
    monkeypatch.setattr(dispatch, "_GRACE_SECONDS", 0.0)
    monkeypatch.setattr(dispatch, "_SECONDS_TO_GET_READY", 0.3)
    crew, began = MadeCrew(1, {"check 0 0": ["never ready"]}), time.monotonic()
    failures, _ = dispatched(crew, tasks(1, 1), time_limit=0.01)
    assert failures == {"check 0": "stopped: its worker did not get ready within 0.3 s"}
    assert time.monotonic() - began > 0.25


def test_tasks_are_asked_for_only_as_workers_need_them():
    asked = []

    def source():
        for each in tasks(3, 100):
            asked.append(each)
            yield each

    class Watching(MadeCrew):
        most_ahead = 0

        def wait(self, seconds):
            self.most_ahead = max(self.most_ahead, len(asked) - len(self.given))
            return super().wait(seconds)

    crew = Watching(2)
    dispatched(crew, source())
    assert len(asked) == 300
    assert crew.most_busy == 2
    assert crew.most_ahead <= 3 * 3


def test_a_worker_stays_with_the_shard_that_it_has_read():
    crew = MadeCrew(2)
    dispatched(crew, tasks(5, 8))
    readings = 0
    for worker in (0, 1):
        shards = [digest.rpartition(" ")[2] for number, digest in crew.given if number == worker]
        readings += 1 + sum(before != after for before, after in itertools.pairwise(shards))
    # Each shard once, and some once more where the end leaves a worker without one of its own.
    assert readings <= 8 + 2
