"""The code in a stranger's TorchScript archive, read without running it.

TorchScript cannot import Python. What it can reach beyond numbers are torch's own operators, and a few of those open
files: `aten::save` writes one and `aten::from_file` reads (or makes) one. Loading already runs code, as a class may say
how its state is set. So the code is searched for what it must not call, as text: TorchScript and Python do not read
quite the same language, and a parser of one could be fooled about the other.
"""

from __future__ import annotations

import re
from pathlib import Path

from auditkit.errors import ExecutionError, UsageError
from auditkit.models.inspection.archive import Archive
from auditkit.models.inspection.nesting import DEEPEST, is_too_deep
from auditkit.models.inspection.pickle_depth import is_too_deep_a_pickle
from auditkit.models.inspection.text import first_line, shown

__all__ = ["check_script", "script_functions"]

# A method of a tensor is an operator, too, so the names are looked for wherever they are.
_FILES = (b"save", b"from_file")
_NAMESPACES = (
    b"_quantized",
    b"aten",
    b"mkl",
    b"mkldnn",
    b"mkldnn_prepacked",
    b"onednn",
    b"prim",
    b"prims",
    b"profiler",
    b"quantized",
    b"sparse",
    b"torchvision",
)
_NOT_OF_PRIM = (
    b"BailOut",
    b"BailoutTemplate",
    b"FallbackGraph",
    b"FusionGroup",
    b"IgnoredPythonOp",
    b"PythonOp",
    b"StaticSubgraph",
    b"TensorExprGroup",
    b"TensorExprDynamicGroup",
    b"oneDNNFusionGroup",
    b"rpc_async",
    b"rpc_remote",
    b"rpc_sync",
)
_CLASSES = (b"mkldnn", b"quantized", b"rnn", b"sparse", b"xnnpack")
_OPERATOR = re.compile(rb"\bops\b(?:\.(\w+)\.(\w+))?")
_CLASS = re.compile(rb"\btorch\.classes\.(\w+)")
_ATTRIBUTE = re.compile(rb'\bgetattr\([\w.()\[\] ]*, "[^"\\\n]*"\)')
_WORD = re.compile(rb"\w+")
_DEFINITION = re.compile(rb"^  def (\w+)\(", re.MULTILINE)


def check_script(archive: Archive, path: Path) -> None:
    """Refuse an archive whose code could open files, or call operators that auditkit does not know.

    Raises:
        UsageError: it could.
        ExecutionError: the archive is damaged.
    """
    for wanted in ("constants.pkl", "data.pkl"):
        if wanted not in archive.sizes:
            raise UsageError(
                f"{path}: no {wanted} in it, as in every TorchScript file since torch 1.6; save the model again"
            )
    for name in archive.sizes:
        if name.startswith("code/") and name.endswith(".py"):
            _check_code(archive.read(name), name, path)
        elif name.endswith("pkl"):
            _check_pickle(archive.read(name), name, path)


def script_functions(archive: Archive) -> int:
    """Return how many functions the code defines."""
    code = [name for name in archive.sizes if name.startswith("code/") and name.endswith(".py")]
    return sum(len(_DEFINITION.findall(archive.read(name))) for name in code)


def _check_code(code: bytes, name: str, path: Path) -> None:
    where = f"{path}: its TorchScript code ({shown(name)})"
    if is_too_deep(code):
        raise UsageError(f"{where} is nested deeper than {DEEPEST} levels, which torch never writes")
    for word in _FILES:
        if word in _WORD.findall(code):
            raise UsageError(
                f"{where} has the word {word.decode()!r}, torch's operator that opens files; auditkit loads no model "
                "that could, unless you trust its origin (--trust-pickle)"
            )
    for found in _OPERATOR.finditer(code):
        namespace, operator = found.groups()
        if namespace not in _NAMESPACES or (namespace == b"prim" and operator in _NOT_OF_PRIM):
            called = found.group().decode(errors="replace")
            raise UsageError(
                f"{where} calls {shown(called)}, an operator that auditkit does not know; export the model to ONNX, or "
                "add --trust-pickle if you trust its origin"
            )
    plain = code
    while (shorter := _ATTRIBUTE.sub(b"_", plain)) != plain:
        plain = shorter
    if b"getattr" in _WORD.findall(plain):
        raise UsageError(f"{where} asks for an attribute in a way that torch never writes (getattr)")
    _check_classes(code, name, path)


def _check_pickle(content: bytes, name: str, path: Path) -> None:
    try:
        deep = is_too_deep_a_pickle(content, DEEPEST)
    except Exception as error:
        raise ExecutionError(f"{path}: {shown(name)} in it is no pickle ({first_line(error)})") from error
    if deep:
        raise UsageError(f"{path}: {shown(name)} in it is nested deeper than {DEEPEST} levels, or inside of itself")
    # The name of a class is a line of its module and a line of its own name.
    _check_classes(content.replace(b"\n", b"."), name, path)


def _check_classes(content: bytes, name: str, path: Path) -> None:
    for found in _CLASS.finditer(content):
        if found.group(1) not in _CLASSES:
            raise UsageError(
                f"{path}: {shown(name)} in it uses {shown(found.group().decode())}, a class that auditkit does not "
                "know; export the model to ONNX, or add --trust-pickle if you trust its origin"
            )
