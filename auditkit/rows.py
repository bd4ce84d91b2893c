"""Rows of a state: dataclasses of tensors whose first dimension is the sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["concatenate_rows", "count_rows", "take_rows"]

State = TypeVar("State")


def take_rows(state: State, index: Tensor) -> State:
    """Return a copy of the rows `index` (int64) of every tensor in `state`."""
    taken: State = _map(lambda tensor: tensor.index_select(0, index), state)
    return taken


def concatenate_rows(states: list[State]) -> State:
    """Return one state that holds the rows of all `states`, in order."""
    joined: State = _map(lambda *tensors: torch.cat(tensors), *states)
    return joined


def count_rows(state: object) -> int:
    """Return the number of rows.

    Raises:
        TypeError: the tensors of `state` differ in their first dimension, or there are none.
    """
    sizes: set[int] = set()

    def note(tensor: Tensor) -> Tensor:
        sizes.add(tensor.shape[0] if tensor.dim() else -1)
        return tensor

    _map(note, state)
    if len(sizes) != 1 or -1 in sizes:
        raise TypeError(f"a state holds tensors with one row a sample; {type(state).__name__} has {sorted(sizes)} rows")
    return sizes.pop()


def _map(function: Callable[..., Tensor], *states: Any) -> Any:
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        if any(type(state) is not type(first) for state in states):
            names = sorted({type(state).__name__ for state in states})
            raise TypeError(f"start and step return one kind of state; got {' and '.join(names)}")
        mapped = {
            field.name: _map(function, *(getattr(state, field.name) for state in states))
            for field in dataclasses.fields(first)
        }
        return dataclasses.replace(first, **mapped)
    raise TypeError(f"a state is a dataclass of tensors (or of such dataclasses); it holds a {type(first).__name__}")
