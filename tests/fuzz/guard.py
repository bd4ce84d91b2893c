"""A guard on what code does while it reads a stranger's input, by Python's audit hooks.

It sees what Python does. Writes by native code are not seen; `harness` looks for what these leave beside the folder.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

__all__ = ["CANARY_MODULE", "Forbidden", "watched"]

CANARY_MODULE = "fuzz_canary"
"""A module that is nowhere: to look for it is to import what an input names."""

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_REPOSITORY = Path(__file__).resolve().parents[2]
# Code in these places was installed by whoever runs the audit.
_INSTALLED_AT = (*sysconfig.get_paths().values(), sys.base_prefix, sys.prefix, _REPOSITORY)
_TRUSTED = tuple({str(Path(place).resolve()) for place in _INSTALLED_AT})
_NEVER = (
    "os.system",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.kill",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "subprocess.Popen",
    "pty.spawn",
    "pickle.find_class",
    "marshal.loads",
    "socket.bind",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "urllib.Request",
    "webbrowser.open",
)
_PATHS = (
    "os.chflags",
    "os.chmod",
    "os.chown",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.setxattr",
    "os.symlink",
    "os.truncate",
    "os.utime",
    "shutil.copyfile",
    "shutil.move",
    "shutil.rmtree",
)


class Forbidden(BaseException):
    """Stops what must not be done; no `except Exception` takes it for damage of a file."""


class _Watch:
    """What is allowed now, and what was seen; one for the process, as an audit hook cannot be taken out again."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.imports = False
        self.seen: list[str] = []
        self.busy = threading.local()

    def inside(self, path: object) -> bool:
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if not name:
            return True  # a file descriptor: judged when it was opened
        folder = self.folder or ""
        real = os.path.realpath(name)
        return real == folder or real.startswith(folder + os.sep) or real == os.devnull

    def problem(self, event: str, args: tuple[Any, ...]) -> str | None:
        if event == "open":
            return self._opened(*args[:3])
        if event in _PATHS:
            strangers = [path for path in args[:2] if isinstance(path, str | bytes) and not self.inside(path)]
            # A link into the folder is fine wherever the text of it leads: following it is what is judged.
            return f"{event} outside the folder: {strangers[0]!r}" if strangers and event != "os.symlink" else None
        if event in _NEVER:
            return f"{event}: {args[:2]!r}" if event != "marshal.loads" or not _called_by_importing() else None
        if event in ("exec", "import", "ctypes.dlopen"):
            return self._ran(event, args)
        return None

    def _opened(self, path: object, mode: object, flags: object) -> str | None:
        if isinstance(path, int) or self.inside(path):
            return None
        writes = bool(flags & _WRITES) if isinstance(flags, int) else any(c in str(mode) for c in "wax+")
        if writes:
            return f"opened for writing outside the folder: {path!r}"
        real = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
        beside = real.startswith(str(Path(self.folder or "").parent) + os.sep)
        return f"read outside the folder: {path!r}" if beside or real.startswith("/etc/passwd") else None

    def _ran(self, event: str, args: tuple[Any, ...]) -> str | None:
        if event == "exec":
            return _run_by_stranger(args[0])
        if event == "ctypes.dlopen":
            name = args[0]
            native = isinstance(name, str) and os.sep in name and not name.startswith((*_TRUSTED, "/lib", "/usr"))
            return f"loaded a library: {name!r}" if native else None
        module, filename = args[0], args[1]
        if isinstance(filename, str) and not os.path.realpath(filename).startswith(_TRUSTED):
            return f"imported {module} of {filename!r}"
        named = isinstance(module, str) and module.partition(".")[0].startswith(CANARY_MODULE)
        return f"imported {module}, which the input names" if named and not self.imports else None


_WATCH = _Watch()
_INSTALLED: list[Callable[..., None]] = []


@contextlib.contextmanager
def watched(folder: Path, *, imports: bool = False) -> Iterator[list[str]]:
    """Forbid everything that a reader of data has no business with; yield what was tried all the same."""
    if not _INSTALLED:
        _INSTALLED.append(_hook)
        sys.addaudithook(_hook)
    seen: list[str] = []
    _WATCH.folder, _WATCH.imports, _WATCH.seen = str(folder.resolve()), imports, seen
    try:
        yield seen
    finally:
        _WATCH.folder = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _WATCH.folder is None or getattr(_WATCH.busy, "now", False):
        return
    _WATCH.busy.now = True
    try:
        problem = _WATCH.problem(event, args)
    finally:
        _WATCH.busy.now = False
    if problem is not None:
        _WATCH.seen.append(problem)
        raise Forbidden(problem)


def _run_by_stranger(code: object) -> str | None:
    """Return what is wrong with running this code: it is no file of an installed package, nor made by one."""
    if not isinstance(code, CodeType):
        return "ran code that is no code object"
    name = code.co_filename
    if not name.startswith("<"):
        known = os.path.realpath(name).startswith(_TRUSTED)
        return None if known else f"ran the code of {name!r}"
    if name.startswith("<frozen"):
        return None
    caller = _caller()
    # Libraries make small functions of their own (dataclasses, jinja2); auditkit itself has no reason to.
    ours = caller.startswith(str(_REPOSITORY) + os.sep) and not caller.startswith(sys.prefix + os.sep)
    known = caller.startswith(("<frozen", "<template", *_TRUSTED)) and not ours
    return None if known else f"ran code made by {caller}"


def _caller() -> str:
    frame = sys._getframe(0)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back  # type: ignore[assignment]
    return frame.f_code.co_filename if frame is not None else "nobody"


def _called_by_importing() -> bool:
    return _caller().startswith("<frozen")
