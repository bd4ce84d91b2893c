"""Findings of shards become those of all samples, whatever the shards."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_findings import OTHER

from auditkit.check import Exhibit
from auditkit.errors import ExecutionError
from auditkit.joining import join_others, top_exhibits

SHOWN = [Exhibit(name, "", score, ()) for name, score in [("b", 1.0), ("a", 1.0), ("c", 2.0), ("d", 0.5)]]


def test_an_image_that_every_shard_shows_hangs_once_in_the_gallery():
    """One of the second data set is no sample of any shard, so all of them show it."""
    shown = [Exhibit("ood: a", "a cat", 2.0, ()), Exhibit("ood: b", "a dog", 1.0, ())]
    assert top_exhibits([*shown, *SHOWN, *shown], 3) == [SHOWN[2], shown[0], SHOWN[1]]
    same_image = Exhibit("ood: a", "a cat from another side", 2.0, ())
    assert top_exhibits([shown[0], same_image, shown[0]], 9) == [shown[0], same_image]


@given(st.permutations(SHOWN), st.integers(0, 5))
def test_the_gallery_does_not_depend_on_the_order_of_shards(exhibits, count):
    names = [exhibit.sample for exhibit in top_exhibits(exhibits, count)]
    assert names == ["c", "a", "b", "d"][:count]


def test_every_shard_says_the_same_of_other_images():
    assert join_others([OTHER, {name: column.copy() for name, column in OTHER.items()}]) is OTHER
    for changed in ({"ood_score": OTHER["ood_score"][:2]}, {"ood_score": OTHER["ood_score"] + 1}, {}):
        part = {name: column for name, column in {**OTHER, **changed}.items() if changed or name != "ood_seen"}
        with pytest.raises(ExecutionError, match="different numbers about other images"):
            join_others([OTHER, part])
