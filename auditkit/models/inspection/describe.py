"""What a model file is, without loading it: for people, before they let anything load it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from auditkit.errors import AuditError, ExecutionError, UsageError
from auditkit.models.inspection.archive import Archive
from auditkit.models.inspection.export import export_facts
from auditkit.models.inspection.pickle import imported_names, imports_in_words, names_in_file, weights_only
from auditkit.models.inspection.safetensors import safetensors_facts
from auditkit.models.inspection.script import script_functions
from auditkit.models.inspection.text import first_line, shown, size_in_words
from auditkit.models.loaded import digest_files
from auditkit.models.torch_files import SUFFIXES, check_torch_file, kind_of

__all__ = ["Inspection", "inspect_model"]

_LARGEST_PICKLE = 2**28
_AS_WEIGHTS = "auditkit would load this as --weights, with a factory as MODEL: it holds weights, not a network"
Facts = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Inspection:
    """What a file says about itself, and what auditkit would do with it.

    Attributes:
        facts: what there is to know, each with its name; texts of the file are made safe to print.
        verdict: what auditkit would do, in a sentence.
        refusal: why it would not load the file; None where it would.
    """

    facts: tuple[tuple[str, str], ...]
    verdict: str
    refusal: AuditError | None


def inspect_model(path: Path) -> Inspection:
    """Read a model file, a file of weights or whatever it is, and load nothing.

    Raises:
        UsageError: there is no such file.
    """
    if not path.is_file():
        raise UsageError(f"no such file: {path}")
    facts = [("file", shown(path)), ("size", size_in_words(path.stat().st_size)), ("SHA-256", digest_files([path]))]
    verdict = "auditkit would load this as MODEL"
    try:
        for name, fact in _facts(path):
            if name == "verdict":
                verdict = fact
            else:
                facts.append((name, fact))
    except AuditError as error:
        return Inspection(tuple(facts), f"auditkit would refuse this: {error}", error)
    return Inspection(tuple(facts), verdict, None)


def _facts(path: Path) -> Facts:
    """Yield facts, then raise what loading the file would raise before a framework sees it."""
    if path.suffix == ".onnx":
        from auditkit.models.inspection.onnx import onnx_facts

        yield from onnx_facts(path)
    elif path.suffix == ".safetensors":
        yield from safetensors_facts(path)
        yield "verdict", _AS_WEIGHTS
    elif path.suffix in SUFFIXES:
        kind, archive = kind_of(path)
        facts = {"torch.export": _export_facts, "torchscript": _script_facts}.get(kind)
        if archive is None or facts is None:
            yield from _pickle_facts(path, archive)
        else:
            yield from facts(archive)
            check_torch_file(kind, archive, path)
    else:
        raise UsageError(
            f"{path} is not a model: wanted a .onnx, .pt or .pt2 file, or .safetensors, .ckpt or .bin with weights"
        )


def _script_facts(archive: Archive) -> Facts:
    yield "format", "TorchScript"
    yield "parameters", f"{size_in_words(_stored(archive, 'data/'))} in {_count(archive, 'data/')} tensors"
    yield "nodes", f"{script_functions(archive)} functions in {_count(archive, 'code/')} entries of code"
    yield "input and output", "not stated by the format"
    yield "imports", imports_in_words([name for name in names_in_file(archive) if not name.startswith("__torch__")])
    yield "loading runs", "TorchScript code: torch's operators, no Python"


def _export_facts(archive: Archive) -> Facts:
    yield "format", "torch.export"
    yield "parameters", f"{size_in_words(_stored(archive, 'data/weights/'))} of weights"
    yield from export_facts(archive)
    yield "loading runs", "texts on sizes that torch evaluates, held to arithmetic; pickles as weights only"


def _pickle_facts(path: Path, archive: Archive | None) -> Facts:
    yield "format", "pickle in an archive of torch's" if archive is not None else "pickle"
    try:
        if archive is not None:
            names = names_in_file(archive)
        else:
            with path.open("rb") as file:
                names = imported_names(file.read(_LARGEST_PICKLE))
    except ValueError as error:
        raise ExecutionError(f"{path} is no model and no pickle ({first_line(error)})") from error
    yield "loading runs", f"opcodes of a pickle that import: {imports_in_words(names)}"
    if archive is not None:
        yield "parameters", f"{size_in_words(_stored(archive, 'data/'))} in {_count(archive, 'data/')} tensors"
    if not weights_only(names):
        raise UsageError(
            f"{path} is a pickle, and loading one runs the code inside it; "
            "export the model to ONNX or TorchScript, or add --trust-pickle if you trust its origin"
        )
    yield "verdict", _AS_WEIGHTS


def _stored(archive: Archive, folder: str) -> int:
    return sum(size for name, size in archive.sizes.items() if name.startswith(folder))


def _count(archive: Archive, folder: str) -> int:
    return sum(name.startswith(folder) for name in archive.sizes)
