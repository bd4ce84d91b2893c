"""Opens whatever the user points at as a model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from auditkit.errors import UsageError
from auditkit.models.loaded import Loaded

__all__ = ["choose_device", "load_model"]


def choose_device(name: str) -> torch.device:
    """Return the torch device for `auto`, `cpu`, `cuda` or `cuda:1`.

    Raises:
        UsageError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device is auto, cpu, cuda or cuda:N; got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device is auto, cpu, cuda or cuda:N; got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: this installation of torch sees no CUDA device")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: the CUDA devices here are 0 to {torch.cuda.device_count() - 1}")
    return device


def load_model(
    source: str | Path | nn.Module,
    *,
    weights: Path | None = None,
    device: torch.device,
    trust_pickle: bool = False,
) -> Loaded:
    """Load a model file, a factory (`module:factory`, `path.py:factory`) or take a module in memory.

    Raises:
        UsageError: there is no such file, or it is not a model.
        ExecutionError: it is one, but cannot be loaded.
    """
    from auditkit.models import torch_files

    if isinstance(source, nn.Module):
        return torch_files.load_module(source, device)
    text = str(source)
    path = Path(text)
    if path.is_file():
        if weights is not None:
            raise UsageError(f"--weights goes with a factory (module:factory), not with the model file {path}")
        if path.suffix == ".onnx":
            from auditkit.models.onnx_files import load_onnx_file

            return load_onnx_file(path, device)
        if path.suffix in torch_files.SUFFIXES:
            return torch_files.load_torch_file(path, device, trust_pickle=trust_pickle)
        if path.suffix == ".safetensors":
            raise UsageError(
                f"{path} holds weights, not a network: give the factory as MODEL (package.module:factory "
                "or path/to/file.py:factory) and this file as --weights"
            )
    if ":" in text and not path.exists():
        if weights is not None and not weights.is_file():
            raise UsageError(f"no such file: {weights} (--weights)")
        return torch_files.load_factory(text, weights, device)
    if not path.exists():
        raise UsageError(f"no such model: {text} (wanted a .onnx, .pt or .pt2 file, module:factory or file.py:factory)")
    raise UsageError(f"{text} is not a model: wanted a .onnx, .pt or .pt2 file, module:factory or file.py:factory")
