"""What an audit holds in memory: one shard, one unit, the pictures that are shown, never all of anything."""

from __future__ import annotations

import gc
import os
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from numpy.lib.npyio import NpzFile

import auditkit
from auditkit import auditing, store, workbench
from auditkit.config import settings_from
from auditkit.exhibits import EXHIBITS
from auditkit.preparing import set_up
from auditkit.samples import Read, Samples
from auditkit.testing import LinearModel
from auditkit.workbench import Recipe

SHAPE = (3, 16, 16)
NETWORK = LinearModel(classes=3, shape=SHAPE, seed=1).eval()
CHECKS = ("explain.saliency", "noise.fgsm")
PLAIN = {"precision": "float32", "device": "cpu", "checks": CHECKS, "options": {"noise.fgsm": {"eps": "8/255"}}}


def made(start, stop):
    """Make the images at these positions from their numbers alone."""
    numbers = range(start, stop)
    images = [torch.from_numpy(np.random.default_rng(number).random(SHAPE, dtype=np.float32)) for number in numbers]
    stacked = torch.stack(images) if images else torch.empty(0, *SHAPE)
    with torch.no_grad():
        labels = NETWORK(stacked).argmax(1)
    return Samples(stacked, labels, tuple(f"{number:06}" for number in numbers))


class Made:
    """A data set that can be read by range only, and notes what was read and is still alive."""

    class_names = None
    source = "made"

    def __init__(self, n):
        self.n, self.reads, self.most_alive = n, 0, 0
        self.alive: list[weakref.ref] = []

    def __len__(self):
        return self.n

    def read(self, start, stop):
        self.reads += stop - start
        samples = made(start, stop)
        if stop - start > 1:
            self.alive = [known for known in self.alive if known() is not None] + [weakref.ref(samples.images)]
            self.most_alive = max(self.most_alive, len(self.alive))
        return Read(samples)


class Named(Made):
    """The same, but it can name its images."""

    def ids_between(self, start, stop):
        return tuple(f"{number:06}" for number in range(start, stop))


class Watched:
    """Counts the arrays that are read from units, and which units are alive when the next is read."""

    def __init__(self, monkeypatch):
        self.decoded: list[str] = []
        self.units: list[weakref.ref] = []
        self.most_units = 0
        take, get, get_numbers = NpzFile.__getitem__, store.Store.get, store.Store.get_numbers

        def item(file, name):
            array = take(file, name)
            self.decoded.append(name)
            return array

        def watched(unit):
            self.units = [known for known in self.units if known() is not None] + [weakref.ref(unit.findings)]
            self.most_units = max(self.most_units, len(self.units))
            return unit

        def numbers(own, digest):
            unit, exhibits = get_numbers(own, digest)
            return watched(unit), exhibits

        monkeypatch.setattr(NpzFile, "__getitem__", item)
        monkeypatch.setattr(store.Store, "get", lambda own, digest: watched(get(own, digest)))
        monkeypatch.setattr(store.Store, "get_numbers", numbers)

    def count(self, start):
        return sum(name.startswith(start) for name in self.decoded)


@pytest.fixture(autouse=True)
def _disk_that_need_not_be_waited_for(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def watched(monkeypatch):
    """Return what watches the units, from when they are assembled on."""
    seen = []
    assemble = auditing.assemble

    def watching(*args, **more):
        seen.append(Watched(monkeypatch))
        return assemble(*args, **more)

    monkeypatch.setattr(auditing, "assemble", watching)
    return seen


def test_the_result_is_assembled_from_one_unit_at_a_time_and_no_picture_is_decoded_that_is_not_shown(watched):
    """50 shards have 20 times as many exhibits as are shown."""
    found = auditkit.audit(NETWORK, Made(200), shard=4, **PLAIN)
    shown = [len(check.exhibits) for check in found.result.checks]
    assert shown == [EXHIBITS, EXHIBITS]
    (seen,) = watched
    assert seen.count("column/robust@8/255") == 50
    assert (
        seen.count("panel/")
        == len(found.arrays)
        == sum(len(exhibit.panels) for check in found.result.checks for exhibit in check.exhibits)
    )
    assert seen.count("attacked") == 0
    assert seen.most_units <= 2, "the unit that was read last, and the one before until its name is free"


def test_export_holds_the_attacked_images_of_one_unit_at_a_time(watched, tmp_path):
    twice = {**PLAIN, "checks": ("noise.fgsm", "noise.fgsm@again", "noise.fgsm@more", "samples.hard")}
    auditkit.audit(NETWORK, Made(12), shard=4, export=tmp_path / "images", **twice)
    (seen,) = watched
    assert seen.count("attacked") == 9
    assert seen.most_units <= 2


def test_no_more_than_two_shards_are_in_memory():
    """The one that is looked at, and the next while it is being read."""
    data = Made(160)
    auditkit.audit(NETWORK, data, shard=8, **PLAIN)
    assert data.most_alive == 2


def bench_of(data, **settings):
    return set_up(Recipe(NETWORK, data, settings_from({"precision": "float32", "shard": 8, **settings})))


@pytest.mark.parametrize("until_decided", [False, True], ids=["in order", "shuffled"])
def test_images_to_learn_from_are_the_same_whether_or_not_the_data_set_can_name_them(until_decided):
    found = [next(bench_of(kind(100), until_decided=until_decided).lessons("dataset")) for kind in (Made, Named)]
    assert found[0].ids == found[1].ids == tuple(sorted(found[0].ids)), "checks sort them, and need no copy then"
    assert 30 < len(found[0]) < 70
    assert found[0].digests() == found[1].digests()
    whole = dict(zip(made(0, 100).ids, made(0, 100).digests(), strict=True))
    assert all(whole[name] == digest for name, digest in zip(found[0].ids, found[0].digests(), strict=True))


def test_of_images_that_have_names_only_those_to_learn_from_are_read():
    """Else a check that learns from 1000 of 100,000 images decodes all of them twice."""
    data = Named(100)
    bench = bench_of(data)
    assert not bench.held_out(data.ids_between(0, 100)).all()
    before = data.reads
    lesson = next(bench.lessons("dataset"))
    assert data.reads - before == len(lesson)


@pytest.mark.parametrize("kind", [Made, Named])
def test_images_to_learn_from_are_never_held_twice(kind, monkeypatch):
    """At 224 x 224 they are the largest thing in memory."""
    gather, parts, left = workbench.gather_samples, [], []

    def gathering(coming, most):
        def watched():
            for part in coming:
                left.append(sum(ref() is not None for ref in parts[:-1]))
                parts.append(weakref.ref(part))
                yield part
                del part

        return gather(watched(), most)

    monkeypatch.setattr(workbench, "gather_samples", gathering)
    next(bench_of(kind(100)).lessons("dataset"))
    assert len(parts) > 10
    assert max(left) <= 2, "the first, which gives the shape, and the one before"


def peak_of(shards):
    gc.collect()
    tracemalloc.start()
    try:
        auditkit.audit(NETWORK, Made(2 * shards), shard=2, **{**PLAIN, "checks": ("noise.fgsm",)})
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_ten_times_as_many_shards_take_no_more_memory_than_their_rows():
    """Of each image its row, name and digests stay. Its pictures, here about 30 kB, do not."""
    peak_of(2)
    few, many = peak_of(10), peak_of(100)
    assert (many - few) / (2 * 90) < 3000
