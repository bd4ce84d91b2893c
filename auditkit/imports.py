"""Python objects named on a command line: `module:name` and `path.py:name`."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from auditkit.errors import ExecutionError, UsageError, did_you_mean

__all__ = ["import_object", "last_line"]


def import_object(spec: str) -> object:
    """Import the object that `module:name` or `path.py:name` stands for.

    A file is imported with its own folder on the import path, for as long as the import lasts; it stays in
    `sys.modules` under a name made of its path and content, so its classes can be pickled in this process
    and an edited file is a new module.

    Args:
        spec: Module or path of a Python file, a colon, and a (dotted) name in it.

    Raises:
        UsageError: The text is not of that form, or there is no such module, file or name.
        ExecutionError: The module raised an exception while it was imported.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise UsageError(f"{spec!r} names no Python object; wanted module:name or path.py:name")
    module = _import_file(Path(place)) if place.endswith(".py") else _import_module(place, name)
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = [known for known in dir(found) if not known.startswith("_")]
            raise UsageError(f"{place} has no {part!r}{did_you_mean(part, public)}")
        found = getattr(found, part)
    return found


def last_line(error: BaseException) -> str:
    """Return the kind of an exception and the last line of its message, as a traceback would end."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


def _import_module(place: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if not _is_itself_missing(place, error):
            raise _failed_import(place, error) from error
        file = Path(*place.split(".")).with_suffix(".py")
        hint = f"; for the file in this folder say {file}:{name}" if file.is_file() else ""
        raise UsageError(f"there is no module {place!r}{hint}") from None
    except (Exception, SystemExit) as error:
        raise _failed_import(place, error) from error


def _is_itself_missing(place: str, error: ModuleNotFoundError) -> bool:
    return error.name is not None and f"{place}.".startswith(f"{error.name}.")


def _import_file(path: Path) -> ModuleType:
    try:
        content = path.read_bytes()
    except OSError as error:
        siblings = [near.name for near in path.parent.glob("*.py") if near.name != path.name]
        reason = error.strerror or type(error).__name__
        hint = did_you_mean(path.name, siblings)
        raise UsageError(f"{path} cannot be read: {reason}{hint}") from None
    unique = _unique_name(path.resolve(), content)
    if unique in sys.modules:
        return sys.modules[unique]
    found = importlib.util.spec_from_file_location(unique, path.resolve())
    if found is None or found.loader is None:
        raise UsageError(f"{path} is not a Python file that can be imported")
    module = importlib.util.module_from_spec(found)
    # Dataclasses and pickle look a class's module up by name, while the file is still being executed.
    sys.modules[unique] = module
    try:
        with _folder_on_path(path.resolve().parent):
            found.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(unique, None)
        raise _failed_import(str(path), error) from error
    return module


def _unique_name(path: Path, content: bytes) -> str:
    digest = hashlib.sha256(str(path).encode("utf-8", "surrogateescape") + b"\0" + content).hexdigest()
    stem = re.sub(r"\W", "_", path.stem)
    return f"_auditkit_file_{stem}_{digest[:16]}"


@contextlib.contextmanager
def _folder_on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def _failed_import(place: str, error: BaseException) -> ExecutionError:
    return ExecutionError(f"importing {place} failed: {last_line(error)}")
