"""Torch networks: TorchScript, torch.export, a factory with weights, and a module in memory."""

from __future__ import annotations

import inspect
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auditkit.errors import AuditError, ExecutionError, UsageError
from auditkit.imports import import_object
from auditkit.models.batching import InFixedBatches
from auditkit.models.inspection.archive import Archive, is_archive
from auditkit.models.inspection.export import check_export
from auditkit.models.inspection.script import check_script
from auditkit.models.inspection.text import first_line, shown
from auditkit.models.loaded import Loaded, digest_files, digest_state

__all__ = ["SUFFIXES", "borrowed", "check_torch_file", "kind_of", "load_factory", "load_module", "load_torch_file"]

SUFFIXES = (".pt", ".pth", ".pt2", ".ts", ".torchscript", ".jit", ".ckpt", ".bin", ".pkl")
"""Of files that torch writes."""

_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_TALKATIVE = ("torch.export", "torch.export.pt2_archive._package", "torch._export.serde.serialize")


def load_torch_file(path: Path, device: torch.device, *, trust_pickle: bool) -> Loaded:
    """Load a TorchScript or torch.export file, or (if trusted) a pickled module.

    Raises:
        UsageError: the file holds weights only, or could run code and is not trusted.
        ExecutionError: the file is damaged.
    """
    kind, archive = kind_of(path)
    if archive is not None and not trust_pickle:
        check_torch_file(kind, archive, path)
    notes: tuple[str, ...] = ()
    shape: tuple[int | None, ...] | None = None
    network: nn.Module
    try:
        if kind == "torch.export":
            program = _load_program(path, trust_pickle)
            # Guards are texts of the file that would become code.
            network, batch, shape = program.module(check_guards=False), *_stated_input(program)
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
        raise ExecutionError(f"{path}: not a readable {kind} file ({first_line(error)})") from error
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


def _load_program(path: Path, trust_pickle: bool) -> torch.export.ExportedProgram:
    """Load an exported program, with its pickles as weights only unless they are trusted."""
    with warnings.catch_warnings(), _quiet(), _weights_only(not trust_pickle):
        warnings.simplefilter("ignore")
        return torch.export.load(path)


@contextmanager
def _weights_only(forced: bool) -> Iterator[None]:
    """Have torch read every pickle as weights only, also where its own code asks for more."""
    before = os.environ.get(_WEIGHTS_ONLY)
    if forced:
        os.environ[_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if forced and before is None:
            del os.environ[_WEIGHTS_ONLY]
        elif forced and before is not None:
            os.environ[_WEIGHTS_ONLY] = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch.export from logging tracebacks of what is raised anyway."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


def kind_of(path: Path) -> tuple[str, Archive | None]:
    """Return what a file of torch's is (torchscript, torch.export or pickle), and its archive if it has one.

    Raises:
        UsageError: the archive tries a trick.
        ExecutionError: it is damaged.
    """
    if not is_archive(path):
        if path.suffix == ".pt2":
            raise ExecutionError(f"{path}: not a readable torch.export file (no archive)")
        return "pickle", None
    archive = Archive(path, str(path))
    if path.suffix == ".pt2" or any(name.startswith("models/") for name in archive.sizes):
        return "torch.export", archive
    if any(name.startswith("code/") for name in archive.sizes):
        return "torchscript", archive
    return "pickle", archive


def check_torch_file(kind: str, archive: Archive, path: Path) -> None:
    """Refuse an archive whose loading could reach more than numbers, before it is loaded.

    Raises:
        UsageError: it could.
        ExecutionError: it is damaged.
    """
    if kind == "torch.export":
        check_export(archive, path)
    elif kind == "torchscript":
        check_script(archive, path)


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
        raise ExecutionError(f"{spec} failed: {type(error).__name__}: {first_line(error)}") from error
    if weights is not None and not required and isinstance(network, nn.Module):
        _load_weights(network, weights)
    return network


def _load_weights(network: nn.Module, path: Path) -> None:
    state = _read_state(path)
    try:
        mismatch = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UsageError(f"{path} does not fit the network: {shown(str(error).splitlines()[-1].strip())}") from error
    # Step counters of batch norm do not change what a trained network computes, and some exporters leave them out.
    missing = [key for key in mismatch.missing_keys if not key.endswith("num_batches_tracked")]
    if missing or mismatch.unexpected_keys:
        raise UsageError(
            f"{path} does not fit the network: {len(missing)} weights missing (such as {shown(missing[:1])}), "
            f"{len(mismatch.unexpected_keys)} unknown (such as {shown(mismatch.unexpected_keys[:1])})"
        )


def _read_state(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix != ".safetensors" and is_archive(path):
            Archive(path, str(path))
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"no such file: {path} (--weights)") from None
    except AuditError:
        raise
    except Exception as error:
        raise UsageError(f"{path} is neither safetensors nor a plain state dict ({first_line(error)})") from error
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
