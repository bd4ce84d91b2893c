"""Checks that do as they are told, and an engine that runs them; what they see is noted."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from auditkit.assemble import assemble
from auditkit.check import Findings, Finished, Metric, Spec
from auditkit.config import settings_from
from auditkit.engine import Hands, execute
from auditkit.journal import UNFINISHED, Journal
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.progress import Silent
from auditkit.split import is_held_out
from auditkit.store import Store
from auditkit.testing import LinearModel, toy_samples
from auditkit.workbench import Recipe

NETWORK = LinearModel(classes=3, seed=1).eval()
SAMPLES = toy_samples(20, seed=2, network=NETWORK)
RAN: list[tuple[str, int]] = []
LEARNED: list[tuple[str, tuple[str, ...]]] = []
JUDGED: list[str] = []
READ: list[dict[str, Finished]] = []


def bench_for(network=NETWORK, images=SAMPLES.images, labels=SAMPLES.labels, **settings):
    data = images.numpy(), labels.numpy()
    return set_up(Recipe(network, data, settings_from({"shard": 8, "precision": "float32", **settings})))


def made_check(name, run, methods=(), **spec):
    described = Spec(name, "t", "w", (Metric("ones", "one", "t"),), **spec)
    made = type("Made", (), {"spec": described, "run": run, "amount": 0.5, **dict(methods)})
    made.__annotations__ = {"spec": ClassVar[Spec], "amount": float}
    return dataclass(frozen=True)(made)


def check_named(name, body):
    """Return a check whose `run` is `body(model, samples, ctx)`; every run is noted."""

    def run(self, model, samples, ctx):
        RAN.append((ctx.key, len(samples)))
        return body(model, samples, ctx)

    return made_check(name, run)


def ones(model, samples, ctx):
    return Findings({"one": np.ones(len(samples), dtype=bool)})


GOOD = check_named("made.good", ones)


def planned(kind, key=None, distribution="tests 1", **options):
    return configure(kind, options, key or kind.spec.id, distribution)


def journal_beside(folder):
    beside = folder.parent / f"{folder.name} journal"
    beside.mkdir(exist_ok=True)
    (beside / UNFINISHED).unlink(missing_ok=True)
    return Journal(beside, {})


def executed(bench, plan, folder, way=None):
    store = Store(folder)
    hands = Hands(way(bench, store)) if way is not None else None
    execution = execute(bench, plan, store, Silent(), journal_beside(folder), hands)
    result, table, *_ = assemble(bench, plan, [], execution, store, [], {}, None)
    return execution, result, table


BRIGHTER = SAMPLES.images + 0.001


def boom(model, samples, ctx):
    raise RuntimeError("boom\nwith a second line")


def leave(model, samples, ctx):
    sys.exit(0)


def overstay(model, samples, ctx):
    while True:
        time.sleep(0.01)
        ctx.check_time()


def nothing(model, samples, ctx):
    return None


class Counter(Silent):
    def __init__(self):
        self.total, self.done = 0, {}

    def start(self, total):
        self.total = total

    def advance(self, pairs, key):
        self.done[key] = self.done.get(key, 0) + pairs


def mean_of_images(model, samples, ctx):
    return {"mean": np.array(samples.images.double().mean().item()), "n": np.array(len(samples))}


def learner_named(name, lesson=mean_of_images, body=None):
    """Return a check that learns `lesson(model, samples, ctx)`; what it sees is noted."""

    def learn(self, model, samples, ctx):
        LEARNED.append((ctx.key, samples.ids))
        return lesson(model, samples, ctx)

    def run(self, model, samples, ctx):
        RAN.append((ctx.key, len(samples)))
        JUDGED.extend(samples.ids)
        columns = {
            "one": np.ones(len(samples), dtype=bool),
            "number": numbers(samples),
            "lesson": np.full(len(samples), float(ctx.lesson["mean"])),
        }
        return (body or (lambda columns: Findings(columns, forwards=numbers(samples) + 1)))(columns)

    return made_check(name, run, {"learn": learn}, scope="dataset")


def numbers(samples):
    return np.array([int(name) for name in samples.ids])


LEARNER = learner_named("made.learner")
HELD_OUT = is_held_out([str(row) for row in range(20)], 0, 20)
