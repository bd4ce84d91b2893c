"""Watches the operations that torch executes: the same for modules, scripts, exported programs and twins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Observer", "watch_operations"]

Observer: TypeAlias = Callable[[str, Sequence[Any], Any], None]
"""Told the name of an operation, such as `aten.relu`, its positional arguments, and what it returned."""


@contextmanager
def watch_operations(observe: Observer) -> Iterator[None]:
    """Call `observe` after each operation that this thread executes meanwhile; nothing is attached to any network.

    Operations are those below autograd: a linear layer is `aten.addmm`, a ReLU that works in place `aten.relu_`. Once
    the watching ends, tensors among them lead to the graph of gradients like any other.
    """
    # An optimised script computes several operations as one, which nobody sees from outside.
    with torch.jit.optimized_execution(False), _Watch(observe):  # type: ignore[attr-defined]
        yield


class _Watch(TorchDispatchMode):
    def __init__(self, observe: Observer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._observe = observe

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else torch imports its compiler, which takes seconds, only to keep it away from this class.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._observe(str(func.overloadpacket), args, result)
        return result
