"""What a loader makes of a model file, before it was tried on an image."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Loaded", "digest_files", "digest_state"]

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Loaded:
    """A model as its file states it."""

    name: str
    format: str
    digest: str
    provider: str
    run: Callable[[Tensor], Any]
    """The deployed network: its own input tensor to whatever it returns."""
    network: nn.Module | None
    """A differentiable torch network with the same input and output; None where there is none."""
    no_network: str | None = None
    """Why there is no differentiable network."""
    is_twin: bool = False
    """The network is a conversion, which must first agree with `run` on real samples."""
    quantised: bool = False
    before_softmax: nn.Module | None = None
    """The network without the softmax that it ends in, if it does."""
    input_shape: tuple[int | None, ...] | None = None
    """The sizes after the batch that the file states, in the file's own layout."""
    output_names: tuple[str, ...] = ()
    """What the file calls the outputs, if it does."""
    fixed_batch: int | None = None
    notes: tuple[str, ...] = ()


def digest_files(paths: Iterable[Path], extra: str = "") -> str:
    """Return the sha256 (hex) of the files' bytes, in order, and of `extra`."""
    digest = hashlib.sha256(extra.encode())
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def digest_state(network: nn.Module) -> str:
    """Return the sha256 (hex) of a network's code, plain attributes, parameters, buffers, modes and gradient flags."""
    digest = hashlib.sha256()
    for name, module in network.named_modules():
        digest.update(f"{name} {type(module).__name__} {module.training} {_plain(module)}\n".encode())
    for source in sorted({_source(type(module)) for module in network.modules()}):
        digest.update(source.encode())
    for name, parameter in network.named_parameters():
        digest.update(f"{name} {parameter.requires_grad}\n".encode())
    # Buffers that are not saved with the weights (a mean and a standard deviation, say) change the outputs, too.
    for name, tensor in {**dict(network.named_buffers()), **network.state_dict(keep_vars=False)}.items():
        if isinstance(tensor, Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _plain(module: nn.Module) -> str:
    """Return the attributes that are numbers or texts (or tuples of them): a stride, a temperature."""
    kinds = (bool, int, float, str)
    return repr(
        sorted(
            (name, value)
            for name, value in vars(module).items()
            if all(isinstance(part, kinds) for part in (value if isinstance(value, tuple) else (value,)))
        )
    )


def _source(kind: type[Any]) -> str:
    """Return the code of a class of the user's, so that an edited network is another one."""
    if kind.__module__.startswith("torch."):
        return ""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""
