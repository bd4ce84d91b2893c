"""Targets with a bug each, which the fuzzer has to find: it would be worth nothing if it could pass blindly."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from harness import SECRET, Target

from auditkit.errors import ExecutionError

__all__ = ["TARGETS"]


def _corpus() -> list[bytes]:
    return [b"good", b"bad"]


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def _raises(data: bytes, folder: Path) -> None:
    if data == b"bad":
        raise KeyError("bad")


def _swallows(data: bytes, folder: Path) -> None:
    if data == b"bad":
        with contextlib.suppress(Exception):
            (folder.parent / "stray").write_bytes(data)


def _says_two_lines(data: bytes, folder: Path) -> None:
    if data == b"bad":
        raise ExecutionError("one\ntwo")


def _warns(data: bytes, folder: Path) -> None:
    if data == b"bad":
        warnings.warn("odd", stacklevel=1)


def _removes(data: bytes, folder: Path) -> None:
    if data == b"bad":
        (folder.parent / SECRET).unlink()


def _reads_a_secret(data: bytes, folder: Path) -> None:
    if data == b"bad":
        (folder / ".." / SECRET).read_bytes()


def _follows_a_link(data: bytes, folder: Path) -> None:
    if data == b"bad":
        (folder / "link").symlink_to(folder.parent / "stray")
        (folder / "link").write_bytes(data)


def _evaluates(data: bytes, folder: Path) -> None:
    if data == b"bad":
        eval("1 + 1")  # noqa: S307 (the bug that is planted)


def _unpickles(data: bytes, folder: Path) -> None:
    if data == b"bad":
        pickle.loads(pickle.dumps(_Payload()))  # noqa: S301 (the bug that is planted)


def _imports(data: bytes, folder: Path) -> None:
    if data == b"bad":
        (folder / "planted_module.py").write_text("DONE = True\n")
        sys.path.insert(0, str(folder))
        try:
            __import__("planted_module")
        finally:
            sys.path.remove(str(folder))
            sys.modules.pop("planted_module", None)


def _imports_a_name(data: bytes, folder: Path) -> None:
    if data == b"bad":
        __import__("fuzz_canary")


def _starts_a_program(data: bytes, folder: Path) -> None:
    if data == b"bad":
        subprocess.run(["true"], check=False)


def _allocates(data: bytes, folder: Path) -> None:
    if data == b"bad":
        np.zeros(2**36, dtype=np.uint8)


def _crashes(data: bytes, folder: Path) -> None:
    if data == b"bad":
        ctypes.string_at(0)


def _exits(data: bytes, folder: Path) -> None:
    if data == b"bad":
        os._exit(3)


def _hangs(data: bytes, folder: Path) -> None:
    if data == b"bad":
        time.sleep(1000)


def _hangs_for_good(data: bytes, folder: Path) -> None:
    if data == b"bad":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(1000)


TARGETS = tuple(
    Target(run.__name__.strip("_"), _corpus, run)
    for run in (
        _raises,
        _swallows,
        _says_two_lines,
        _warns,
        _removes,
        _reads_a_secret,
        _follows_a_link,
        _evaluates,
        _unpickles,
        _imports,
        _imports_a_name,
        _starts_a_program,
        _allocates,
        _crashes,
        _exits,
        _hangs,
        _hangs_for_good,
    )
)
