"""Findings of several shards become one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from auditkit.columns import AllMatches, Columns
from auditkit.errors import ExecutionError
from auditkit.precision import Matches, join_matches

__all__ = ["check_same_names", "join_all_matches", "join_others", "top_exhibits"]

Shown = TypeVar("Shown", bound="_Ranked")


class _Ranked(Protocol):
    """What decides whether an exhibit is shown; `Exhibit` says what each is."""

    @property
    def sample(self) -> str: ...
    @property
    def caption(self) -> str: ...
    @property
    def score(self) -> float: ...


def check_same_names(what: str, first: Mapping[str, object], other: Mapping[str, object]) -> None:
    """Make sure that two shards have the same columns, or whatever it is that has names.

    Raises:
        ExecutionError: they do not.
    """
    if list(other) != list(first):
        raise ExecutionError(f"the shards have different {what}: {list(first)} and {list(other)}")


def join_others(parts: Sequence[Columns]) -> Columns:
    """Return the numbers about other images, which every shard has.

    Raises:
        ExecutionError: the shards do not have the same.
    """
    first = parts[0]
    for part in parts:
        same = list(part) == list(first) and all(
            np.array_equal(part[name], first[name], equal_nan=first[name].dtype.kind == "f") for name in first
        )
        if not same:
            raise ExecutionError("the shards have different numbers about other images")
    return first


def join_all_matches(parts: Sequence[AllMatches], rows: Sequence[int]) -> dict[str, Matches]:
    """Return the matches of all shards, the i-th of `rows[i]` images, in order.

    Raises:
        ExecutionError: the shards do not have the same matches.
    """
    for part in parts:
        check_same_names("matches", parts[0], part)
    return {name: join_matches([part[name] for part in parts], rows) for name in parts[0]}


def top_exhibits(exhibits: Iterable[Shown], count: int) -> list[Shown]:
    """Return the exhibits with the largest score, ties by sample id: the same whatever the shards.

    One of an image that is no sample comes from every shard, and counts once. The best of many are the best of the best
    of some and of the rest, so they can be found as the shards come.
    """
    different = {(exhibit.sample, exhibit.caption, exhibit.score): exhibit for exhibit in exhibits}
    return sorted(different.values(), key=lambda exhibit: (-exhibit.score, exhibit.sample))[:count]
