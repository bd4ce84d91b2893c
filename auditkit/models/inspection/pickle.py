"""What a pickle would import, read off its opcodes: nothing is unpickled here."""

from __future__ import annotations

import io
import pickletools
from collections.abc import Iterator
from typing import Any, BinaryIO

from torch._weights_only_unpickler import _get_allowed_globals
from torch.serialization import get_safe_globals

from auditkit.errors import ExecutionError
from auditkit.models.inspection.archive import Archive
from auditkit.models.inspection.text import shown

__all__ = ["imported_names", "imports_in_words", "names_in_file", "weights_only"]

_TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING")
_PUTS = ("PUT", "BINPUT", "LONG_BINPUT")
_GETS = ("GET", "BINGET", "LONG_BINGET")
_EXTENSIONS = ("EXT1", "EXT2", "EXT4")
_UNKNOWN = "a name that is put together while loading"
_MOST_PICKLES = 64

_HARMLESS = (
    "torch.FloatStorage",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch.storage.UntypedStorage",
    "collections.OrderedDict",
)
"""The names in every file of weights."""


def imported_names(content: bytes) -> list[str]:
    """Return the names that loading a pickle would import, sorted; of all pickles in a row.

    Raises:
        ValueError: the opcodes are no pickle.
    """
    if not content:
        raise ValueError("empty")
    stream = io.BytesIO(content)
    names: set[str] = set()
    for number in range(_MOST_PICKLES):
        start = stream.tell()
        if start >= len(content):
            break
        try:
            names.update(_names(stream))
        except Exception as error:
            # Torch before version 1.6 wrote the numbers of the weights behind the pickles.
            if number:
                break
            raise ValueError(f"no pickle: {type(error).__name__}") from error
    return sorted(names)


def _names(stream: BinaryIO) -> Iterator[str]:
    texts: list[str | None] = []
    memo: dict[object, str | None] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".", 1)
            texts.append(None)
        elif opcode.name == "STACK_GLOBAL":
            module, name = texts[-2:] if len(texts) > 1 else (None, None)
            yield f"{module}.{name}" if module is not None and name is not None else _UNKNOWN
            texts.append(None)
        elif opcode.name in _EXTENSIONS:
            yield _UNKNOWN
        elif opcode.name in _TEXTS:
            texts.append(str(argument))
        elif opcode.name in _PUTS or opcode.name == "MEMOIZE":
            memo[len(memo) if opcode.name == "MEMOIZE" else argument] = texts[-1] if texts else None
        elif opcode.name in _GETS:
            texts.append(memo.get(argument))
        elif opcode.stack_after:
            texts.append(None)


def names_in_file(archive: Archive) -> list[str]:
    """Return the names that the pickles in an archive of torch's would import.

    Raises:
        ExecutionError: what is called a pickle there is none.
    """
    names: set[str] = set()
    for name in archive.sizes:
        if name.endswith(".pkl"):
            try:
                names.update(imported_names(archive.read(name)))
            except ValueError as error:
                raise ExecutionError(f"{archive.label}: {shown(name)} in it is no pickle") from error
    return sorted(names)


def imports_in_words(names: list[str], most: int = 12) -> str:
    """Return imported names as a text, the unusual ones first."""
    ordered = sorted(names, key=lambda name: (name in _HARMLESS, name))
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(shown(name, 80) for name in ordered[:most]) + more if ordered else "nothing"


def weights_only(names: list[str]) -> bool:
    """Tell whether torch takes a pickle with these names as weights only."""
    allowed = set(_get_allowed_globals())
    # The user may have told torch of more; an entry can also be a pair of an object and its name.
    allowed |= {entry[1] if isinstance(entry, tuple) else _full_name(entry) for entry in get_safe_globals()}
    return all(name in allowed or name.replace("__builtin__", "builtins") in allowed for name in names)


def _full_name(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
