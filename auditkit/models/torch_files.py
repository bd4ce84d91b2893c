"""Torch networks: TorchScript, torch.export, a factory with weights, and a module in memory."""

from __future__ import annotations

import inspect
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auditkit.errors import ExecutionError, UsageError
from auditkit.imports import import_object
from auditkit.models.batching import InFixedBatches
from auditkit.models.loaded import Loaded, digest_files, digest_state

__all__ = ["borrowed", "load_factory", "load_module", "load_torch_file"]

# What archives begin with, and so does everything that torch has written since version 1.6.
_ARCHIVE = b"PK\x03\x04"


def load_torch_file(path: Path, device: torch.device, *, trust_pickle: bool) -> Loaded:
    """Load a TorchScript or torch.export file, or (if trusted) a pickled module.

    Raises:
        UsageError: the file holds weights only, or a pickle that is not trusted.
        ExecutionError: the file is damaged.
    """
    kind = _kind(path)
    notes: tuple[str, ...] = ()
    shape: tuple[int | None, ...] | None = None
    network: nn.Module
    try:
        if kind == "torch.export":
            program = torch.export.load(path)
            network, batch, shape = program.module(), *_stated_input(program)
            if batch is not None and batch > 1:
                network = InFixedBatches(network, batch)
                notes = (f"the network takes {batch} images at a time, and is given so many",)
        elif kind == "torchscript":
            network = _load_script(path, device)
        else:
            network = _unpickle(path, trust_pickle)
            notes = ("loaded from a pickle that the user trusts (--trust-pickle)",)
    except (UsageError, ExecutionError):
        raise
    except Exception as error:
        raise ExecutionError(f"{path}: not a readable {kind} file ({_first_line(error)})") from error
    if kind != "torch.export":
        network.eval()
    return replace(_loaded(network.to(device), path.name, kind, digest_files([path]), notes), input_shape=shape)


def _stated_input(program: torch.export.ExportedProgram) -> tuple[int | None, tuple[int | None, ...] | None]:
    """Return the batch size (None: any) and the sizes after it that an exported program was made for."""
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    value = inputs[0].meta.get("val") if len(inputs) == 1 else None
    if not isinstance(value, Tensor) or value.dim() != 4:
        return None, None
    batch, *sizes = (size if isinstance(size, int) else None for size in value.shape)
    return batch, tuple(sizes)


def _load_script(path: Path, device: torch.device) -> nn.Module:
    with warnings.catch_warnings():
        # Torch asks for torch.export instead of TorchScript; whoever audits a finished file cannot change its format.
        warnings.simplefilter("ignore", DeprecationWarning)
        network: nn.Module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    return network


def _kind(path: Path) -> str:
    if path.suffix == ".pt2":
        return "torch.export"
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(len(_ARCHIVE)) == _ARCHIVE:
                raise ExecutionError(f"{path} is damaged: cut short, or changed after it was written")
        return "pickle"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any("/code/" in name or name.startswith("code/") for name in names):
        return "torchscript"
    if any(name.endswith(("models/model.json", "serialized_exported_program.json")) for name in names):
        return "torch.export"
    return "pickle"


def _unpickle(path: Path, trust_pickle: bool) -> nn.Module:
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if not trust_pickle:
            raise UsageError(
                f"{path} is a pickle, and loading one runs the code inside it; "
                "export the model to ONNX or TorchScript, or add --trust-pickle if you trust its origin"
            ) from error
        content = torch.load(path, map_location="cpu", weights_only=False)
    if isinstance(content, nn.Module):
        return content
    raise UsageError(
        f"{path} holds weights, not a network: give the factory as MODEL (package.module:factory "
        "or path/to/file.py:factory) and this file as --weights"
    )


def load_factory(spec: str, weights: Path | None, device: torch.device) -> Loaded:
    """Build a network with `module:factory` or `path.py:factory` and load its weights.

    A factory that can be called without arguments is; its weights are then loaded strictly. One that needs an argument
    gets the path of the weights.

    Raises:
        UsageError: the factory, its arguments or the weights do not fit.
        ExecutionError: the factory failed.
    """
    factory = import_object(spec)
    if isinstance(factory, nn.Module):
        network: object = factory
    elif callable(factory):
        network = _build(factory, spec, weights)
    else:
        raise UsageError(f"{spec} is a {type(factory).__name__}; wanted a function that returns a torch.nn.Module")
    if not isinstance(network, nn.Module):
        raise UsageError(f"{spec} returned a {type(network).__name__}; wanted a torch.nn.Module")
    file = Path(spec.rpartition(":")[0])
    digest = digest_files([file] if file.suffix == ".py" else [], extra=digest_state(network))
    return _loaded(network.to(device).eval(), spec, "torch", digest)


def _build(factory: Any, spec: str, weights: Path | None) -> object:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        raise UsageError(f"{spec} is built into Python; wanted a function that returns a torch.nn.Module") from None
    required = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) > 1 or (required and weights is None):
        raise UsageError(
            f"{spec} needs {len(required)} argument(s); wanted a factory that needs none, or the path of --weights"
        )
    try:
        network = factory(str(weights)) if required else factory()
    except Exception as error:
        raise ExecutionError(f"{spec} failed: {type(error).__name__}: {_first_line(error)}") from error
    if weights is not None and not required and isinstance(network, nn.Module):
        _load_weights(network, weights)
    return network


def _load_weights(network: nn.Module, path: Path) -> None:
    state = _read_state(path)
    try:
        mismatch = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UsageError(f"{path} does not fit the network: {str(error).splitlines()[-1].strip()}") from error
    # Step counters of batch norm do not change what a trained network computes, and some exporters leave them out.
    missing = [key for key in mismatch.missing_keys if not key.endswith("num_batches_tracked")]
    if missing or mismatch.unexpected_keys:
        raise UsageError(
            f"{path} does not fit the network: {len(missing)} weights missing (such as {missing[:1]}), "
            f"{len(mismatch.unexpected_keys)} unknown (such as {mismatch.unexpected_keys[:1]})"
        )


def _read_state(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"no such file: {path} (--weights)") from None
    except Exception as error:
        raise UsageError(f"{path} is neither safetensors nor a plain state dict ({_first_line(error)})") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"{path} is not a state dict: wanted names with tensors")
    return state


def load_module(network: nn.Module, device: torch.device) -> Loaded:
    """Take a network that lives in the caller's program; `borrowed` protects it."""
    training = sum(module.training for module in network.modules())
    notes = (f"{training} modules were in training mode; the audit looks at evaluation mode",) if training else ()
    return _loaded(network, type(network).__name__, "torch", digest_state(network), notes)


@contextmanager
def borrowed(network: nn.Module) -> Iterator[None]:
    """Put a caller's network into evaluation mode, and give it back exactly as it was, also after an exception."""
    modes = {module: module.training for module in network.modules()}
    try:
        network.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _loaded(network: nn.Module, name: str, kind: str, digest: str, notes: tuple[str, ...] = ()) -> Loaded:
    return Loaded(name=name, format=kind, digest=digest, provider="torch", run=network, network=network, notes=notes)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
