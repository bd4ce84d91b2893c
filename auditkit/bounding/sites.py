"""Where a network rectifies: each call of a ReLU or one of its relatives is a site of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from auditkit.errors import ExecutionError

__all__ = [
    "NothingToBound",
    "Site",
    "is_rectifier_class",
    "is_weighted",
    "nothing_to_bound",
    "numbered",
    "rectifier",
    "site_name",
    "works_in_place",
]

_CLASSES = ("ReLU", "ReLU6", "LeakyReLU", "PReLU", "RReLU", "Hardtanh", "Hardswish")
_RECTIFIERS = ("relu", "relu6", "leaky_relu", "prelu", "rrelu", "hardtanh", "hardswish")
_CLAMPS = ("clamp", "clip", "clamp_min")
_LIMITS = ((1, "min"), (2, "max"))
# A clamp from 0 to one of these rounds to unsigned integers.
_UNSIGNED = (2**4 - 1, 2**8 - 1, 2**16 - 1)
# What has learned weights: a clamp before the first of these belongs to the preprocessing of images.
_WEIGHTED = {"linear", "matmul", "__matmul__", "mm", "bmm", "addmm", "baddbmm", "einsum", "batch_norm"}
_WEIGHTED |= {f"conv{kind}{n}d" for kind in ("", "_transpose") for n in (1, 2, 3)} | {"convolution", "_convolution"}


class NothingToBound(ExecutionError):
    """A network has no rectifier."""


def nothing_to_bound(network: str) -> NothingToBound:
    """Return the error for a network without any site."""
    return NothingToBound(
        f"{network}: nothing to bound, for it calls no ReLU, ReLU6, LeakyReLU, PReLU, Hardtanh, Hardswish or clamp at "
        "zero (transformers have GELU instead)"
    )


@dataclass(frozen=True)
class Site:
    """One call of a rectifier."""

    name: str
    """The path of the module that calls; `:2` and so on for its further calls. In ONNX the name of the node."""
    operation: str
    """What is called: `relu`, `relu6`, `leaky_relu`, `prelu`, `rrelu`, `hardtanh`, `hardswish` or `clamp`."""
    shape: tuple[int, ...]
    """The shape of the values, without the batch."""

    @property
    def channel_axis(self) -> int:
        """The axis that channels run along, batch included: the last of (N, C) and of tokens (N, T, C), else 1."""
        return 1 if len(self.shape) >= 3 else -1

    @property
    def channels(self) -> int:
        """The number of channels."""
        return (self.shape[0] if self.channel_axis == 1 else self.shape[-1]) if self.shape else 1


def rectifier(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], weighted: bool
) -> str | None:
    """Return which rectifier a call of one of torch's functions is, or None.

    Args:
        function: a function, a method of tensors or an operator of `torch.ops.aten`.
        args: what it is called with.
        kwargs: the same, by name.
        weighted: whether weights have been used before; a clamp of the image itself is none.
    """
    name = _plain(function)
    if name in _RECTIFIERS:
        return name
    if not weighted or name not in _CLAMPS:
        return None
    lowest, highest = (kwargs.get(limit, args[place] if len(args) > place else None) for place, limit in _LIMITS)
    return "clamp" if _number(lowest) == 0 and _number(highest) not in _UNSIGNED else None


def is_weighted(function: Callable[..., Any]) -> bool:
    """Tell whether a function of torch works with learned weights."""
    return _plain(function) in _WEIGHTED


def works_in_place(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> bool:
    """Tell whether a call writes into its first argument."""
    return getattr(function, "__name__", "").split(".")[0].endswith("_") or bool(kwargs.get("inplace"))


def _plain(function: Callable[..., Any]) -> str:
    """Return the name of relu, Tensor.relu_, aten.relu.default and so on: `relu` for all of them."""
    name: str = getattr(function, "__name__", "").split(".")[0]
    return name if name.endswith("__") else name.removesuffix("_")


def _number(limit: Any) -> float | None:
    """Return a limit of a clamp, where it is known and one number."""
    try:
        return None if limit is None else float(limit)
    except (TypeError, ValueError, RuntimeError):
        return None


def is_rectifier_class(kind: str) -> bool:
    """Tell whether a class of this name in `torch.nn` is a rectifier."""
    return kind in _CLASSES


def site_name(path: str, kind: str, operation: str) -> str:
    """Return the name of a call by the module at `path`, whose class is `kind`."""
    return path if path and is_rectifier_class(kind) else f"{path}.{operation}".lstrip(".")


def numbered(names: Sequence[str]) -> list[str]:
    """Return the names with `:2`, `:3` and so on at those that came before."""
    seen: Counter[str] = Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name}:{seen[name]}")
    return unique
