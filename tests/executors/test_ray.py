"""Ray: the same result as without, on two machines, also when one of them is lost on the way."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from auditkit import UsageError, audit
from auditkit.executors import ray_crew
from auditkit.progress import Silent
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

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.second = made.add_node(num_cpus=1)
    yield made
    made.shutdown()


class Killer(Silent):
    """Kills a node as soon as both have ended a unit."""

    def __init__(self, cluster, used):
        self.cluster, self.used, self.killed = cluster, used, False

    def advance(self, pairs, key):
        if not self.killed and len({node for node, _ in self.used}) == 2:
            self.killed = True
            self.cluster.remove_node(self.cluster.second, allow_graceful=False)


def told(audited):
    told = json.loads(audited.result.to_json())
    del told["volatile"]
    for check in told["checks"]:
        del check["seconds"]
    return told


def test_two_nodes_of_which_one_is_killed_on_the_way_find_the_same(files, cluster, tmp_path, monkeypatch):
    used = []
    give = ray_crew.RayCrew.give

    def noted(self, worker, task):
        used.append((self._places[worker].node, task.digest))
        give(self, worker, task)

    monkeypatch.setattr(ray_crew.RayCrew, "give", noted)
    alone = audit(*files, **SETTINGS)
    killer = Killer(cluster, used)
    settings = {**SETTINGS, "executor": "ray", "ray_address": cluster.address}
    beside = audit(*files, out=tmp_path / "out", progress=killer, **settings)
    assert killer.killed
    assert [check.status for check in beside.result.checks] == ["done"] * len(CHECKS)
    assert told(beside) == told(alone)
    assert beside.table.keys() == alone.table.keys()
    for name, column in alone.table.items():
        assert np.array_equal(column, beside.table[name], equal_nan=column.dtype.kind == "f"), name
    given = [digest for _, digest in used]
    twice = {digest for digest in given if given.count(digest) > 1}
    assert len(twice) == 1, "what was under way on the node that was killed is done on the other, and nothing else is"
    assert len({node for node, digest in used if digest in twice}) == 2
    # Nothing is done again by the same command.
    used.clear()
    again = audit(*files, out=tmp_path / "out", **settings)
    assert used == []
    assert told(again) == told(alone)


def test_without_a_cluster_at_the_address_there_is_one_line(files):
    with pytest.raises(UsageError, match=r"no Ray cluster at 127\.0\.0\.1:1: "):
        audit(*files, **SETTINGS, executor="ray", ray_address="127.0.0.1:1")
