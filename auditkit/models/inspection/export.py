"""A stranger's torch.export file (.pt2), read without loading it.

Loading one in torch evaluates texts (sizes by sympy, and with them Python's `eval`), looks up functions by name,
writes names into Python code that it then runs, unpickles, and opens libraries that AOTInductor compiled. Each of these
is held to what torch itself writes; `torch_files` sees to it that every pickle is read as weights only.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from auditkit.errors import AuditError, ExecutionError, UsageError
from auditkit.models.inspection.archive import Archive
from auditkit.models.inspection.expressions import is_operator, is_size, is_structure
from auditkit.models.inspection.onnx_shapes import LARGEST_VALUE
from auditkit.models.inspection.pickle import imported_names, imports_in_words, names_in_file, weights_only
from auditkit.models.inspection.text import first_line, shown, size_in_words

__all__ = ["check_export", "export_facts"]

_WEIGHTS = re.compile(r"data/(weights|constants)/\w+_config\.json")
_PICKLES = re.compile(r"data/(weights|constants|sample_inputs)/.*\.pt")
_COMPILED = ("data/aotinductor/", "data/executorch/")
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)?")
_PLAIN = re.compile(r"-?[A-Za-z0-9_.]*")
_FREE = frozenset(("metadata", "as_string", "as_strings", "guards_code", "fqn", "torch_version", "verifiers"))
"""Texts that torch keeps as texts; guards are not made into code, as `module(check_guards=False)` asks for none."""
_NAMES = frozenset(("name", "as_name", "forward_arg_names"))
_OBJECTS = frozenset(("custom_obj", "as_custom_obj", "custom_obj_values", "as_opaque_obj"))
_MAPS = frozenset(
    (
        "tensor_values",
        "sym_int_values",
        "sym_bool_values",
        "sym_float_values",
        "custom_obj_values",
        "range_constraints",
        "opset_version",
        "as_string_to_argument",
    )
)
"""Fields whose keys are names of the program's, which may look like names of fields."""
_BYTES_EACH = 8


def check_export(archive: Archive, path: Path) -> None:
    """Refuse a file whose loading could run anything but the operators of a network.

    Raises:
        UsageError: it could.
        ExecutionError: the file is damaged.
    """
    try:
        programs = [name for name in archive.sizes if name.startswith("models/")]
        if not programs:
            raise ExecutionError(f"{path}: not a readable torch.export file (no program in it)")
        for name in archive.sizes:
            if name.startswith(_COMPILED):
                raise UsageError(
                    f"{path}: {shown(name)} in it was compiled elsewhere, and loading would run it; export the model "
                    "without compiling it"
                )
            if name.startswith("models/"):
                _check(json.loads(archive.read(name)), "", path)
            elif _WEIGHTS.fullmatch(name):
                _check_weights(json.loads(archive.read(name)), archive, name, path)
            elif _PICKLES.fullmatch(name):
                _check_pickle(archive.read(name), name, path)
            elif re.fullmatch(r"data/(weights|constants)/.*\.json", name):
                raise UsageError(f"{path}: {shown(name)} in it is a file that torch never writes")
    except AuditError:
        raise
    except Exception as error:
        raise ExecutionError(f"{path}: not a readable torch.export file ({first_line(error)})") from error


def export_facts(archive: Archive) -> Iterator[tuple[str, str]]:
    """Yield the numbers of nodes, the kinds of operators and the shapes that a program states.

    Raises:
        ExecutionError: there is no program to be read.
    """
    try:
        name = next(name for name in archive.sizes if name.startswith("models/"))
        program = json.loads(archive.read(name))
        graph = program["graph_module"]["graph"]
        targets = Counter(str(node["target"]) for node in graph["nodes"])
        signature = program["graph_module"]["signature"]
        inputs = [spec["user_input"]["arg"] for spec in signature["input_specs"] if "user_input" in spec]
        outputs = [spec["user_output"]["arg"] for spec in signature["output_specs"] if "user_output" in spec]
        yield "producer", shown(f"torch {program.get('torch_version', 'of an unnamed version')}")
        yield "nodes", str(targets.total())
        for word, arguments in (("input", inputs), ("output", outputs)):
            for argument in arguments:
                yield word, _described(argument, graph)
    except AuditError:
        raise
    except Exception as error:
        raise ExecutionError(f"{archive.label}: not a readable torch.export file ({first_line(error)})") from error
    spaces: Counter[str] = Counter()
    for target, count in targets.items():
        spaces[".".join(target.split(".")[: 3 if target.startswith("torch.ops.") else 1])] += count
    ordered = sorted(spaces.items())[:10]
    yield "domains of operators", ", ".join(f"{shown(space, 60)} ({count} nodes)" for space, count in ordered)


def _described(argument: Any, graph: Any) -> str:
    if "as_tensor" not in argument:
        return shown(", ".join(argument))
    name = argument["as_tensor"]["name"]
    sizes = [str(size.get("as_int", "any")) for size in graph["tensor_values"][name]["sizes"]]
    return shown(f"{name} [{', '.join(sizes)}]")


def _check(value: Any, key: str, path: Path) -> None:
    """Check every text of a program by the field that it stands in; a field that is not known holds plain names."""
    if key in _FREE and _is_text(value):
        return
    if key in _OBJECTS and value:
        _refuse(path, f"an object of a class of its own ({key})")
    if isinstance(value, dict):
        for name, part in value.items():
            if not _PLAIN.fullmatch(name):
                _refuse(path, f"the name {shown(name)}")
            _check(part, "" if key in _MAPS else name, path)
    elif isinstance(value, list):
        for part in value:
            _check(part, key, path)
    elif isinstance(value, str):
        _check_text(value, key, path)


def _is_text(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else (value,)
    return all(isinstance(part, str) for part in parts)


def _check_text(text: str, key: str, path: Path) -> None:
    if key == "expr_str":
        good = is_size(text)
    elif key in ("target", "as_operator"):
        good = is_operator(text)
    elif key in ("in_spec", "out_spec"):
        good = not text or is_structure(text)
    else:
        good = (_NAME if key in _NAMES else _PLAIN).fullmatch(text) is not None
    if not good:
        _refuse(path, f"{shown(text)} as its {shown(key)}")


def _refuse(path: Path, found: str) -> None:
    raise UsageError(
        f"{path}: the program in it has {found}, which auditkit does not let torch evaluate; export the model to ONNX, "
        "or add --trust-pickle if you trust its origin"
    )


def _check_weights(content: Any, archive: Archive, name: str, path: Path) -> None:
    folder = name.rsplit("/", 1)[0]
    for tensor, entry in content["config"].items():
        file = entry["path_name"]
        if not _PLAIN.fullmatch(file) or file.startswith(("custom_obj", "opaque_obj")):
            raise UsageError(
                f"{path}: {shown(tensor)} in it is an object that loading would unpickle; export the model to ONNX, or "
                "add --trust-pickle if you trust its origin"
            )
        if entry.get("use_pickle"):
            _check_pickle(archive.read(f"{folder}/{file}"), f"{folder}/{file}", path)
            continue
        lengths = [size["as_int"] for size in entry["tensor_meta"]["sizes"]]
        needed = _BYTES_EACH * math.prod(max(int(length), 0) for length in lengths)
        there = archive.sizes.get(f"{folder}/{file}", 0)
        if needed > max(LARGEST_VALUE, _BYTES_EACH * there) or (needed and not there):
            raise UsageError(
                f"{path}: {shown(tensor)} in it has the shape {shown(lengths)}; "
                f"the archive holds {size_in_words(there)}"
            )


def _check_pickle(content: bytes, name: str, path: Path) -> None:
    """Refuse a pickle that torch would not take as weights only, which is how it will be read."""
    if content.startswith(b"PK"):
        names = names_in_file(Archive(content, f"{path}: {shown(name)} in it"))
    else:
        names = imported_names(content)
    if not weights_only(names):
        raise UsageError(
            f"{path}: {shown(name)} in it is a pickle that imports {imports_in_words(names, 3)}; "
            "export the model to ONNX, or add --trust-pickle if you trust its origin"
        )
