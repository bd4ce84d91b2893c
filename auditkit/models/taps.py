"""Taps on the activations of a network: a function is called with each of them while the network computes.

A *site* is one call of an activation function in a forward pass, not a module: a shared module has several, and a
function that is no module has them, too. Sites are found once, from the operations of a small pass; see
`activation_calls` for what counts. Nothing is attached to the network then or later.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn

from auditkit.errors import ExecutionError
from auditkit.models.activation_calls import CONVOLUTIONS, WEIGHTED, ActivationCall, activation_calls
from auditkit.models.operations import watch_operations
from auditkit.models.trace import Operation, trace, without_fast_paths

if TYPE_CHECKING:
    from auditkit.models.base import Differentiable

__all__ = ["ActivationSite", "Tap", "find_sites", "tap_activations"]

_FEW, _MORE = 2, 3
# A quantiser is named after what it quantises.
_OF_QUANTISER = re.compile(r"(_output_\d+)?_QuantizeLinear$")


@dataclass(frozen=True)
class ActivationSite:
    """One call of an activation function in a forward pass."""

    name: str
    """The path of the module that computes it, or the name of the node of an ONNX graph; `:2` for a second call."""
    function: str
    """What is computed: `relu`, `gelu`."""
    operation: str
    """The operation whose result is tapped, such as `aten.relu_`."""
    call: int
    """Which of the calls of this operation in a forward pass it is, from 0."""
    calls: int
    """How many calls of this operation there are in a forward pass."""
    batch_axis: int
    """The axis of the result along which its images lie."""
    shape: tuple[int, ...]
    """The shape of an image's activations."""
    channel_axis: int
    """The axis of `shape` that the units lie along: the first behind a convolution, else the last."""
    negative: bool
    """Whether the function has values below zero."""

    @property
    def channels(self) -> int:
        """The number of units."""
        return self.shape[self.channel_axis] if self.shape else 1


Tap: TypeAlias = Callable[[int, Tensor, int], None]
"""Told the number of a site, the activations (N, *shape) there, and how many of the N rows are images: the others only
fill the batch. The activations may be overwritten once it returns."""


def find_sites(model: Differentiable, images: Tensor) -> tuple[ActivationSite, ...]:
    """Return the sites of a model in order of execution; images (N, C, H, W) in [0, 1], N at least 1, are tried.

    An activation that does not depend on the number of images (of a table of positions, say) is none.

    Raises:
        ExecutionError: the network does not compute the same activations for any number of images.
    """
    fixed = model.batching.fixed
    sizes = (fixed, fixed) if fixed is not None else (_FEW, _MORE)
    passes = [trace(model.network, _repeated(images, size).to(model.dtype)) for size in sizes]
    found = [activation_calls(operations) for operations in passes]
    few, more = ([(call.value.name, call.value.call) for call in calls] for calls in found)
    if few != more:
        raise ExecutionError(
            f"the network computes {len(few)} activations for {sizes[0]} images and {len(more)} for {sizes[1]}"
        )
    totals = Counter(operation.name for operation in passes[1])
    sites = []
    for first, second in zip(*found, strict=True):
        axis = _batch_axis(first.value.result.shape, second.value.result.shape, *sizes)
        if axis is not None:
            sites.append(_site(second, passes[1], axis, sizes[1], totals[second.value.name]))
    names = _numbered([site.name for site in sites])
    return tuple(ActivationSite(**{**vars(site), "name": name}) for site, name in zip(sites, names, strict=True))


def tap_activations(model: Differentiable, sites: Sequence[ActivationSite], images: Tensor, tap: Tap) -> None:
    """Call `tap` with the activations of images (N, C, H, W) in [0, 1] at each site.

    Sites come in order of execution, batch after batch; nothing is kept and no gradient is recorded.

    Raises:
        ExecutionError: the network took another path for these images than for those that its sites were found with.
    """
    size = model.batching.chunk(model.batch)
    for start in range(0, len(images), size):
        part = images[start : start + size]
        filled = model.batching.fill(part)
        observer = _Observer(sites, tap, len(part), len(filled), model.batching.copies)
        with torch.no_grad(), without_fast_paths(), watch_operations(observer.observe):
            model.forward(filled)
        observer.hold()


class _Observer:
    """Picks the activations out of the operations of one forward pass."""

    def __init__(self, sites: Sequence[ActivationSite], tap: Tap, rows: int, filled: int, copies: int) -> None:
        self.sites = sites
        self.tap = tap
        self.rows = rows
        self.filled = filled
        self.copies = copies
        self.numbers = {(site.operation, site.call): number for number, site in enumerate(sites)}
        self.wanted = {site.operation: site.calls for site in sites}
        self.calls = dict.fromkeys(self.wanted, 0)

    def observe(self, name: str, arguments: Sequence[Any], result: Any) -> None:
        if name not in self.calls:
            return
        number = self.numbers.get((name, self.calls[name]))
        self.calls[name] += 1
        if number is not None:
            values = _rows_first(result, self.sites[number].batch_axis, self.filled)
            self.tap(number, values[:: self.copies], self.rows)

    def hold(self) -> None:
        if self.calls != self.wanted:
            raise ExecutionError(
                "the network takes another path for some images than for those that it was tried with "
                f"({sum(self.calls.values())} instead of {sum(self.wanted.values())} calls of operations that give "
                "activations): its activations cannot be compared"
            )


def _repeated(images: Tensor, rows: int) -> Tensor:
    """Return `rows` images, the first of them again where there are fewer."""
    missing = rows - len(images)
    return images[:rows] if missing <= 0 else torch.cat([images, images[:1].expand(missing, *images.shape[1:])])


def _batch_axis(few: Sequence[int], more: Sequence[int], n_few: int, n_more: int) -> int | None:
    """Return the axis that grows with the number of images, None where none does."""
    if len(few) != len(more):
        return None
    for axis, (one, other) in enumerate(zip(few, more, strict=True)):
        if one * n_more == other * n_few and one % n_few == 0 and (one != other or n_few == n_more):
            return axis
    return None


def _site(call: ActivationCall, operations: Sequence[Operation], axis: int, images: int, total: int) -> ActivationSite:
    values = _rows_first(call.value.result, axis, images)
    shape = tuple(values.shape[1:])
    # An image may have several rows, such as windows; the channels of a convolution are the axis behind these.
    behind_rows = values.dim() - call.value.result.dim()
    return ActivationSite(
        name=_name(call),
        function=call.function,
        operation=call.value.name,
        call=call.value.call,
        calls=total,
        batch_axis=axis,
        shape=shape,
        channel_axis=behind_rows if _behind_convolution(operations, call.root) else len(shape) - 1,
        negative=call.negative,
    )


def _behind_convolution(operations: Sequence[Operation], root: Operation) -> bool:
    """Tell whether the last weights before an activation were those of a convolution."""
    before = operations[: next(at for at, operation in enumerate(operations) if operation is root)]
    return next(
        (operation.plain in CONVOLUTIONS for operation in reversed(before) if operation.plain in WEIGHTED), True
    )


def _rows_first(values: Tensor, axis: int, images: int) -> Tensor:
    """Return values (images, ...) whose images lie along `axis`, each with one row there or several."""
    values = values.movedim(axis, 0)
    each = values.shape[0] // images
    return values if each == 1 else values.reshape(images, each, *values.shape[1:])


def _name(call: ActivationCall) -> str:
    root = call.root
    if root.kind == "onnx":
        return _OF_QUANTISER.sub("", root.place)
    if root.kind in nn.modules.activation.__all__ and root.place:
        return root.place
    if root.kind:
        return f"{root.place}.{call.function}".lstrip(".")
    return f"{root.weights} > {call.function}" if root.weights else call.function


def _numbered(names: Sequence[str]) -> list[str]:
    """Return the names with `:2`, `:3` and so on at those that came before."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}:{seen[name]}")
    return unique
