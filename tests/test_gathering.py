"""What is put together unit by unit is bit for bit what all units at once give, and no more is kept than is needed."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auditkit.check import Exhibit, Findings, Panel, Tally
from auditkit.errors import ExecutionError
from auditkit.exhibits import EXHIBITS
from auditkit.gathering import Gathering
from auditkit.precision import IOU_THRESHOLDS, Matches, join_matches
from auditkit.store import Store, Unit

OTHERS = {"ood/score": np.array([np.inf, np.nan, -1.5]), "ood_sure": np.array([True])}


def picture(number):
    return Panel("p", "image", np.full((2, 2, 3), number, dtype=np.uint8))


def matches(rng, n):
    found, there = int(rng.integers(0, 5)), int(rng.integers(0, 4))
    hit = rng.random((found, len(IOU_THRESHOLDS))) < 0.5
    return Matches(
        image=rng.integers(0, n, found),
        category=rng.integers(0, 3, found),
        score=rng.random(found, dtype=np.float32),
        hit=hit,
        ignored=~hit,
        object_image=rng.integers(0, n, there),
        object_category=rng.integers(0, 3, there),
    )


def unit_of(rng, counted=True, **changed):
    """Return a unit of a few samples, many of whose exhibits tie with others or repeat them."""
    n = int(rng.integers(1, 5))
    shown = tuple(
        Exhibit(f"s{rng.integers(4)}", f"c{rng.integers(2)}", float(rng.integers(3)), (picture(rng.integers(256)),))
        for _ in range(int(rng.integers(0, 7)))
    )
    plain = {
        "columns": {"right": rng.random(n) < 0.5, "distance": rng.standard_normal(n, dtype=np.float32)},
        "exhibits": shown,
        "forwards": rng.integers(0, 9, n),
        "backwards": rng.integers(0, 9, n) if counted else None,
        "attacked": rng.integers(0, 65536, (n, 3, 2, 2)).astype(np.uint16),
        "others": OTHERS,
        "tallies": {
            "sum": Tally(rng.random(3)),
            "largest": Tally(rng.random(3, dtype=np.float32), "largest"),
            "least": Tally(rng.integers(0, 9, (2, 2)), "least"),
        },
        "matches": {"found": matches(rng, n), "after@2": matches(rng, n)},
    }
    return Unit(Findings(**{**plain, **changed}), float(rng.random()))


def same(one, other):
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), shards=st.integers(1, 6), look=st.integers(0, 6), counted=st.booleans())
def test_unit_by_unit_gives_bit_for_bit_what_all_at_once_give(tmp_path_factory, seed, shards, look, counted):
    """Ties and repeated exhibits included, and whether or not somebody looked in between."""
    rng, store = np.random.default_rng(seed), Store(tmp_path_factory.mktemp("units"))
    units = [unit_of(rng, counted or shard % 2 == 0) for shard in range(shards)]
    gathering = Gathering()
    for shard, unit in enumerate(units):
        store.put(f"{shard}", unit)
        gathering.add(*store.get_numbers(f"{shard}"))
        if shard == look:
            gathering.columns(), gathering.matches(), gathering.passes("forwards")
            gathering.tallies()["sum"] += 1
    found = [unit.findings for unit in units]
    assert gathering.units == shards
    assert gathering.seconds == sum(unit.seconds for unit in units)
    columns = gathering.columns()
    assert list(columns) == list(found[0].columns)
    for name, column in columns.items():
        same(column, np.concatenate([part.columns[name] for part in found]))
    same(gathering.passes("forwards"), np.concatenate([part.forwards for part in found]))
    all_counted = all(part.backwards is not None for part in found)
    assert (gathering.passes("backwards") is not None) == all_counted
    if all_counted:
        same(gathering.passes("backwards"), np.concatenate([part.backwards for part in found]))
    for name, values in gathering.others.items():
        same(values, OTHERS[name])
    for name, combine in (("sum", np.add), ("largest", np.maximum), ("least", np.minimum)):
        same(gathering.tallies()[name], functools.reduce(combine, [part.tallies[name].array for part in found]))
    rows = [len(part.columns["right"]) for part in found]
    for name, joined in gathering.matches().items():
        wanted = join_matches([part.matches[name] for part in found], rows)
        for field in vars(wanted):
            same(getattr(joined, field), getattr(wanted, field))
    # The gallery as it is when all exhibits are in memory: of equal ones the last, where the first was.
    different = {(each.sample, each.caption, each.score): each for part in found for each in part.exhibits}
    wanted = sorted(different.values(), key=lambda each: (-each.score, each.sample))[:EXHIBITS]
    shown = [store.get_exhibit(each) for each in gathering.exhibits]
    assert [(each.sample, each.caption, each.score) for each in shown] == [
        (each.sample, each.caption, each.score) for each in wanted
    ]
    for each, other in zip(shown, wanted, strict=True):
        same(each.panels[0].array, other.panels[0].array)


WRONG = {
    "another column": ({"columns": {"right": np.ones(2, dtype=bool)}}, "different columns"),
    "no columns": ({"columns": {}}, "different columns"),
    "other numbers": ({"others": {**OTHERS, "ood_sure": np.array([False])}}, "different numbers about other images"),
    "no matches": ({"matches": {}}, "different matches"),
    "no tallies": ({"tallies": {}}, "different tallies"),
    "another shape": (
        {"tallies": {name: Tally(np.zeros(1), name) for name in ("sum", "largest", "least")}},
        "tallies sum that cannot be combined",
    ),
}


@pytest.mark.parametrize(("changed", "words"), WRONG.values(), ids=WRONG.keys())
def test_a_unit_that_does_not_fit_is_refused_and_leaves_no_trace(changed, words):
    rng, gathering = np.random.default_rng(1), Gathering()
    first = unit_of(rng)
    gathering.add(first, ())
    for _ in range(2):
        with pytest.raises(ExecutionError, match=words):
            gathering.add(unit_of(rng, **changed), ())
    assert gathering.units == 1
    assert gathering.seconds == first.seconds
    for name, column in gathering.columns().items():
        same(column, first.findings.columns[name])
    for name, tally in gathering.tallies().items():
        same(tally, first.findings.tallies[name].array)
    for name, joined in gathering.matches().items():
        same(joined.image, first.findings.matches[name].image)


def test_the_columns_are_not_held_twice():
    gathering, rng = Gathering(), np.random.default_rng(2)
    for _ in range(3):
        gathering.add(unit_of(rng), ())
    once, again = gathering.columns(), gathering.columns()
    assert all(once[name] is again[name] for name in once)
