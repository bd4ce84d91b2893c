"""Sites by watching the calls: for every network that runs as Python, traceable or not, and without rewriting it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from auditkit.bounding.sites import Site, is_weighted, numbered, rectifier, site_name, works_in_place
from auditkit.errors import ExecutionError

__all__ = ["AtCalls", "reads_values", "sites_by_calls"]


class _Watch(TorchFunctionMode):
    """Gives the result of every rectifier to `treat(operation, values)`, and goes on with what that returns."""

    def __init__(self, treat: Callable[[str, Tensor], Tensor]) -> None:
        super().__init__()
        self.treat = treat
        self.weighted = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        self.weighted = self.weighted or is_weighted(func)
        operation = rectifier(func, args, kwargs, self.weighted)
        if operation is None:
            return func(*args, **kwargs)
        if not works_in_place(func, kwargs):
            return self.treat(operation, func(*args, **kwargs))
        if not args:
            args, kwargs = (kwargs["input"],), {name: value for name, value in kwargs.items() if name != "input"}
        # In a copy, because autograd remembers the result of the rectifier: the bound must not be written over it.
        result = func(args[0].clone(), *args[1:], **kwargs)
        return args[0].copy_(self.treat(operation, result))


class _Reading(TorchFunctionMode):
    """Notes whether Python is told values of tensors, as a branch on them must be; shapes are no such values."""

    _READS = ("__bool__", "__int__", "__float__", "__index__", "item", "tolist", "numpy", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.read = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.read = self.read or getattr(func, "__name__", "") in self._READS
        return func(*args, **(kwargs or {}))


def reads_values(network: nn.Module, images: Tensor) -> bool:
    """Tell whether the network's path may depend on the values of images (N, ...)."""
    with torch.no_grad(), _Reading() as reading:
        network.forward(images)
    read: bool = reading.read
    return read


class AtCalls(nn.Module):
    """A network in which the values of the n-th call of a rectifier pass through the n-th of some modules."""

    def __init__(self, network: nn.Module, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.network = network
        self.at = nn.ModuleList(modules)

    def forward(self, images: Tensor) -> Any:
        """Return what the network returns for images (N, ...).

        Raises:
            ExecutionError: the network called more or fewer rectifiers than there are modules.
        """
        calls = 0

        def treat(operation: str, values: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls > len(self.at):
                raise self._other_calls("more")
            treated: Tensor = self.at[calls - 1](values)
            return treated

        with _Watch(treat):
            output = self.network(images)
        if calls < len(self.at):
            raise self._other_calls(f"{calls}")
        return output

    def _other_calls(self, calls: str) -> ExecutionError:
        name = type(self.network).__name__
        return ExecutionError(f"{name} called {calls} rectifiers; wanted the same {len(self.at)} for every image")


def sites_by_calls(network: nn.Module, images: Tensor) -> list[tuple[Site, Tensor]]:
    """Run the network on images (N, ...) and return each site in order of execution, with the values (N, ...) there.

    The values are copies: an operation in place may overwrite those of the network. Code in TorchScript is not seen.
    """
    calls: list[tuple[str, str, Tensor]] = []
    with _paths(network) as path:

        def treat(operation: str, values: Tensor) -> Tensor:
            where, kind = path[-1] if path else ("", "")
            calls.append((site_name(where, kind, operation), operation, values.detach().clone()))
            return values

        with torch.no_grad(), _Watch(treat):
            # Calling forward, because calling an fx module prints a traceback before it raises.
            network.forward(images)
    names = numbered([name for name, _, _ in calls])
    return [
        (Site(name, operation, tuple(values.shape[1:])), values)
        for name, (_, operation, values) in zip(names, calls, strict=True)
    ]


@contextmanager
def _paths(network: nn.Module) -> Iterator[list[tuple[str, str]]]:
    """Yield the paths and classes of the modules that are being called, the innermost last."""
    stack: list[tuple[str, str]] = []
    handles = []
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        entry = (name, type(module).__name__)

        def enter(module: nn.Module, inputs: Any, entry: tuple[str, str] = entry) -> None:
            stack.append(entry)

        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            stack.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()
