"""Files of bounded networks that a plain torch or onnxruntime program loads, without auditkit."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from auditkit.bounding.bounded_copy import BoundedNetwork
from auditkit.bounding.calls import reads_values
from auditkit.bounding.onnx_surgery import BoundedOnnx
from auditkit.errors import ExecutionError, UsageError
from auditkit.models.batching import InFixedBatches

__all__ = ["save_bounded", "save_bounded_onnx"]

# A protobuf message ends there; larger weights go into a file beside it.
_LARGEST_MESSAGE = 2**31 - 1


def save_bounded(bounded: BoundedNetwork, images: Tensor, path: Path) -> None:
    """Write a bounded network as TorchScript (`.pt`) or as an exported program (`.pt2`), for any number of images.

    The file was loaded again, and gives the same bits for the images, for one of them and for twice as many. A network
    that insists on its number of images is written for that number.

    Args:
        bounded: what `bounded_copy`, `train_bounds` or `fine_tune` returned.
        images: (N, ...), N at least 2, what the network takes: to trace it with, and to compare.
        path: ends in `.pt` or `.pt2`; replaced if it is there.

    Raises:
        UsageError: the path has another ending, or there are fewer than two images.
        ExecutionError: the network cannot be written in this format, or the file does not compute the same.
    """
    if path.suffix not in (".pt", ".pt2"):
        raise UsageError(f"a bounded torch network is written to a .pt or .pt2 file; got {path}")
    if len(images) < 2:
        raise UsageError(f"two images or more are needed to write {path}; got {len(images)}")
    if bounded.method == "calls" and reads_values(bounded.network, images):
        raise ExecutionError(f"{path}: the network branches on its values, which no file of torch keeps")
    network = bounded.network
    trials = [images, images[:1], torch.cat([images, images])]
    if isinstance(network, InFixedBatches):
        if path.suffix == ".pt":
            raise ExecutionError(f"{path}: the network takes {network.size} images at a time; .pt2 says so, .pt cannot")
        trials = [images[torch.arange(network.size, device=images.device) % len(images)]]
        network = network.graph
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            loaded = _script(network, trials, path) if path.suffix == ".pt" else _program(network, trials, path)
            same = all(torch.equal(loaded(rows), network(rows)) for rows in trials)
        except Exception as error:
            path.unlink(missing_ok=True)
            text = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ExecutionError(f"{path}: the bounded network cannot be written in this format ({text})") from error
    if not same:
        path.unlink()
        raise ExecutionError(f"{path}: the file does not compute what the network does, and was removed")


def _script(network: nn.Module, trials: Sequence[Tensor], path: Path) -> Callable[[Tensor], Tensor]:
    """Write TorchScript, and return what the file computes."""
    traced: Any = torch.jit.trace(network, trials[0], check_trace=False)  # type: ignore[no-untyped-call]
    traced.save(str(path))
    loaded: Callable[[Tensor], Tensor] = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return loaded


def _program(network: nn.Module, trials: Sequence[Tensor], path: Path) -> Callable[[Tensor], Tensor]:
    """Write an exported program, for one number of images if there is one trial, and return what the file computes."""
    shapes = ({0: torch.export.Dim.DYNAMIC},) if len(trials) > 1 else None
    torch.export.save(torch.export.export(network, (trials[0],), dynamic_shapes=shapes), path)
    return torch.export.load(path).module()


def save_bounded_onnx(bounded: BoundedOnnx, path: Path) -> None:
    """Write a bounded graph as an ONNX file; weights beyond 2 GiB go to a file beside it, `NAME.onnx.data`.

    Raises:
        UsageError: the path does not end in `.onnx`.
    """
    if path.suffix != ".onnx":
        raise UsageError(f"a bounded ONNX graph is written to a .onnx file; got {path}")
    if bounded.model.ByteSize() <= _LARGEST_MESSAGE:
        onnx.save_model(bounded.model, path)
        return
    beside = path.with_name(f"{path.name}.data")
    # What is there would be added to, and what is saved that way loses its weights.
    beside.unlink(missing_ok=True)
    copied = onnx.ModelProto()
    copied.CopyFrom(bounded.model)
    onnx.save_model(copied, path, save_as_external_data=True, location=beside.name)
