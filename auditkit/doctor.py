"""What this machine can do for an audit, what would get in the way, and what a model file is before it is loaded."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from auditkit.errors import ExecutionError
from auditkit.registry import entries, load_check

__all__ = ["examine", "examine_model"]

_LIBRARIES = ("torch", "onnx", "onnx2fx", "numpy", "scipy", "pydantic", "matplotlib", "pillow", "safetensors")
_RUNTIMES = ("onnxruntime-gpu", "onnxruntime")


def examine() -> tuple[list[str], bool]:
    """Return lines for a person, and whether nothing is in the way."""
    lines = [f"auditkit {version('auditkit')}, Python {platform.python_version()}, {platform.platform()}"]
    lines += [f"{name} {_version(name) or 'MISSING'}" for name in _LIBRARIES]
    healthy = all(_version(name) for name in _LIBRARIES)
    installed = [name for name in _RUNTIMES if _version(name)]
    lines += [f"{name} {_version(name)}" for name in installed]
    if len(installed) != 1:
        healthy = False
        lines.append(
            "PROBLEM: onnxruntime and onnxruntime-gpu are both installed and overwrite each other; uninstall both, "
            "then install the one that auditkit asks for"
            if installed
            else "PROBLEM: neither onnxruntime nor onnxruntime-gpu is installed"
        )
    lines += _devices()
    for entry in entries():
        try:
            load_check(entry)
        except ExecutionError as error:
            healthy = False
            lines.append(f"PROBLEM: {error}")
    lines.append(f"{len(entries())} checks installed")
    return lines, healthy


def examine_model(path: Path) -> tuple[list[str], bool]:
    """Return lines about a model file for a person, and whether auditkit would load it; it is not loaded here.

    Raises:
        UsageError: there is no such file.
    """
    from auditkit.models.inspection.describe import inspect_model

    found = inspect_model(path)
    return [*(f"{name}: {fact}" for name, fact in found.facts), found.verdict], found.refusal is None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _devices() -> list[str]:
    import torch

    lines = [f"cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"]
    if torch.cuda.is_available():
        lines += [f"cuda:{index}: {torch.cuda.get_device_name(index)}" for index in range(torch.cuda.device_count())]
    else:
        lines.append("cuda: none that torch sees")
    try:
        import onnxruntime

        lines.append("onnxruntime providers: " + ", ".join(onnxruntime.get_available_providers()))
    except ImportError as error:
        lines.append(f"PROBLEM: onnxruntime cannot be imported ({error})")
    return lines
