"""What worker processes and a Ray cluster gain, and what a unit costs beside its work.

python -m benchmarks.workers --rounds 3

Every way computes the same audit, bound by the processor, with one thread a process. The time is that of the units,
from the first to the last: with workers it includes their start and their own loading of the model; `audit` is the
whole, with reading the model in, the report and all. The overhead is that of a check that does nothing, by unit.
"side by side" is what the machine itself can give: two processes that share nothing do the whole audit each, and the
factor is twice the time of one alone by theirs.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from auditkit import Context, Findings, Metric, Model, Samples, Spec, audit
from auditkit.config import settings_from
from auditkit.demo import IMAGES, WEIGHTS
from auditkit.engine import Hands, execute
from auditkit.executors.choose import executor_for
from auditkit.journal import Journal
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.progress import Silent
from auditkit.store import Store
from auditkit.workbench import Recipe

MODEL = "auditkit.demo.network:SignNet"
WAYS = {"one process": {"workers": 0}, "one worker": {"workers": 1}, "two workers": {"workers": 2}}


@dataclass(frozen=True)
class Nothing:
    """A check that does nothing."""

    spec: ClassVar[Spec] = Spec("benchmark.nothing", "t", "w", (Metric("ones", "one", "t"),))

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Find that every sample is a sample."""
        return Findings({"one": np.ones(len(samples), dtype=bool)})


class Clock(Silent):
    """Notes when the units begin and end."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def start(self, total: int) -> None:
        """Note the time."""
        self.began = time.perf_counter()

    def advance(self, pairs: int, key: str) -> None:
        """Note the time."""
        self.ended = time.perf_counter()


def timed(way: Mapping[str, Any], draws: int, shard: int) -> tuple[float, float]:
    clock, began = Clock(), time.perf_counter()
    # The same work for every image, unlike an attack that ends when it succeeds.
    options = {"noise.gaussian": {"draws": draws, "eps": "0.1/255"}}
    audited = audit(
        MODEL,
        str(IMAGES),
        weights=WEIGHTS,
        checks=["noise.gaussian"],
        options=options,
        shard=shard,
        precision="float32",
        progress=clock,
        **way,
    )
    assert audited.result.checks[0].status == "done", audited.result.checks[0].reason
    return clock.ended - clock.began, time.perf_counter() - began


def side_by_side(draws: int, shard: int) -> float:
    """Return how long the units take in two processes at the same time, each of which computes all of them."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        both = [pool.submit(timed, WAYS["one process"], draws, shard) for _ in range(2)]
        return max(future.result()[0] for future in both)


def overhead(way: Mapping[str, Any], shard: int, copies: int) -> tuple[float, int]:
    """Return milliseconds a unit of a check that does nothing, the start of workers left out, and the units."""
    settings = settings_from({"weights": WEIGHTS, "shard": shard, "precision": "float32", **way})
    bench = set_up(Recipe(MODEL, str(IMAGES), settings))
    plan = [configure(Nothing, {}, f"benchmark.nothing@{copy}", "benchmark") for copy in range(copies)]
    first = [configure(Nothing, {}, "benchmark.nothing", "benchmark")]
    with tempfile.TemporaryDirectory() as folder, executor_for(bench, Store(Path(folder)), Silent()) as executor:
        store = Store(Path(folder))
        hands = Hands(executor)
        execute(bench, first, store, Silent(), Journal(Path(folder), {}), hands)
        began = time.perf_counter()
        done = execute(bench, plan, store, Silent(), Journal(Path(folder), {}), hands)
    assert not done.failures, done.failures
    return 1000 * (time.perf_counter() - began) / len(done.units), len(done.units)


@contextlib.contextmanager
def two_nodes() -> Iterator[str]:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--shard", type=int, default=16)
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--only-pairs", action="store_true", help="Leave out the ways with a single worker.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        ways: dict[str, Mapping[str, Any]] = dict(WAYS)
        if not args.no_ray:
            address = stack.enter_context(two_nodes())
            for count in (1, 2):
                name = "Ray, one worker" if count == 1 else "Ray, two nodes"
                ways[name] = {"executor": "ray", "ray_address": address, "workers": count}
        if args.only_pairs:
            ways = {name: way for name, way in ways.items() if "one worker" not in name}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        beside = []
        for _ in range(args.rounds):
            beside.append(side_by_side(args.draws, args.shard))
            for name, way in ways.items():
                times[name].append(timed(way, args.draws, args.shard))
        units = {name: overhead(way, args.shard, copies=8) for name, way in ways.items()}
    alone = [min(pair[at] for pair in times["one process"]) for at in (0, 1)]
    sys.stdout.write(f"{'side by side':18} units {min(beside):7.1f} s ({2 * alone[0] / min(beside):.2f}x)\n")
    for name, pairs in times.items():
        work, whole = (min(pair[at] for pair in pairs) for at in (0, 1))
        milliseconds, count = units[name]
        sys.stdout.write(
            f"{name:18} units {work:7.1f} s ({alone[0] / work:.2f}x)   "
            f"audit {whole:7.1f} s ({alone[1] / whole:.2f}x)   "
            f"{milliseconds:5.1f} ms a unit that does nothing ({count} units)\n"
        )


if __name__ == "__main__":
    main()
