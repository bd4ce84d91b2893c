"""Ray: the same result as without, on two machines, also when one of them is lost on the way."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from auditkit import UsageError, audit
from auditkit.executors import ray_crew
from auditkit.testing import LinearModel, toy_samples

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = [
    # Ray's own: it leaves sockets and files of ended processes to the garbage collector, and warns of its future.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
CHECKS = ("noise.pgd", "noise.universal", "sanity.attacks")
SETTINGS = {
    "checks": CHECKS,
    "shard": 8,
    "precision": "float32",
    "options": {"noise.pgd": {"steps": 40}, "noise.universal": {"steps": 5}},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audited")
    network = LinearModel(classes=3, seed=1).eval()
    samples = toy_samples(96, seed=2, network=network)
    torch.jit.script(network).save(folder / "model.pt")
    np.savez(folder / "data.npz", x=samples.images.numpy(), y=samples.labels.numpy())
    return folder / "model.pt", folder / "data.npz"


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with one processor each, as two machines would be."""
    from ray.cluster_utils import Cluster

    made = _patiently(Cluster, initialize_head=True, head_node_args={"num_cpus": 1})
    made.second = _patiently(made.add_node, num_cpus=1)
    yield made
    made.shutdown()


def _patiently(start, **options):
    """Start something of Ray's, which gives up after 30 seconds, on a machine that is busy with other tests."""
    for _ in range(2):
        with contextlib.suppress(Exception):
            return start(**options)
    return start(**options)


class NodeKiller:
    """Stands between an audit and its crew: kills the second node in the middle of its second unit."""

    def __init__(self, cluster, monkeypatch):
        self.cluster, self.given, self.lost = cluster, [], None
        idle, give = ray_crew.RayCrew.idle, ray_crew.RayCrew.give

        def idle_once_both_are_there(crew):
            free = idle(crew)
            while self.lost is None and not self._are_both_there(crew):
                time.sleep(0.05)
                free = idle(crew)
            return free

        def give_and_kill(crew, worker, task):
            node = crew._places[worker].node
            self.given.append((node, task.digest))
            give(crew, worker, task)
            second = self.cluster.second.node_id
            if self.lost is None and [each for each, _ in self.given].count(second) == 2:
                self.lost = task.digest
                self._kill()

        monkeypatch.setattr(ray_crew.RayCrew, "idle", idle_once_both_are_there)
        monkeypatch.setattr(ray_crew.RayCrew, "give", give_and_kill)

    @staticmethod
    def _are_both_there(crew):
        return len({place.node for place in crew._places.values() if place.node is not None}) == 2

    def _kill(self):
        """Kill the workers before what would tell them to end: a unit lasts no longer than that takes."""
        raylet = self.cluster.second.all_processes["raylet"][0].process.pid
        for child in Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split():
            os.kill(int(child), signal.SIGKILL)
        self.cluster.remove_node(self.cluster.second, allow_graceful=False)


def told(audited):
    told = json.loads(audited.result.to_json())
    del told["volatile"]
    for check in told["checks"]:
        del check["seconds"]
    return told


def test_two_nodes_of_which_one_is_killed_on_the_way_find_the_same(files, cluster, tmp_path, monkeypatch):
    alone = audit(*files, **SETTINGS)
    killer = NodeKiller(cluster, monkeypatch)
    settings = {**SETTINGS, "executor": "ray", "ray_address": cluster.address}
    beside = audit(*files, out=tmp_path / "out", **settings)
    assert killer.lost is not None
    assert [check.status for check in beside.result.checks] == ["done"] * len(CHECKS)
    assert told(beside) == told(alone)
    assert beside.table.keys() == alone.table.keys()
    for name, column in alone.table.items():
        assert np.array_equal(column, beside.table[name], equal_nan=column.dtype.kind == "f"), name
    given = [digest for _, digest in killer.given]
    twice = {digest for digest in given if given.count(digest) > 1}
    assert twice == {killer.lost}, "what was under way on the node is done on the other, and nothing else is"
    assert len({node for node, digest in killer.given if digest == killer.lost}) == 2
    # Nothing is done again by the same command.
    killer.given.clear()
    again = audit(*files, out=tmp_path / "out", **settings)
    assert killer.given == []
    assert told(again) == told(alone)


def test_without_a_cluster_at_the_address_there_is_one_line(files):
    with pytest.raises(UsageError, match=r"no Ray cluster at 127\.0\.0\.1:1: "):
        audit(*files, **SETTINGS, executor="ray", ray_address="127.0.0.1:1")
