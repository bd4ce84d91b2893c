"""The fuzzer: deterministic inputs for a target, run in this process under a guard that sees what they do.

A target takes bytes from a stranger. It may refuse them with an `AuditError` of one line, and it may do nothing else:
no other exception, no warning, no code run, no write outside its folder, no unbounded time or memory.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
import sys
import tempfile
import threading
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click
import numpy as np
from guard import Forbidden, watched
from mutate import Draw, mutated

from auditkit.errors import AuditError

__all__ = ["SECRET", "Finding", "Target", "attempt", "fuzz", "input_of"]

SECRET = "secret.txt"  # noqa: S105 (the name of a file, not a password)
"""A file beside the folder of every input: a target that reads `../secret.txt` has left its folder."""

_MEMORY = 3 * 2**30
_SECONDS = 20.0


@dataclass(frozen=True)
class Target:
    """A reader of bytes from strangers.

    Attributes:
        name: For tables and for `--target`.
        corpus: Makes inputs to mutate, good ones and known tricks; the same at every call.
        run: Reads an input. It may write below the folder that it is given, and raise `AuditError` or click's usage
            errors, with one line. The folder is new and empty, and removed afterwards.
        words: Pieces that the format knows, for inputs that are text.
        mutate: The format's own mutation, used for half of the inputs.
        imports: Whether modules may be named by an input that is trusted to name them; off for almost everything.
    """

    name: str
    corpus: Callable[[], list[bytes]]
    run: Callable[[bytes, Path], None]
    words: tuple[bytes, ...] = ()
    mutate: Callable[[bytes, Draw], bytes] | None = None
    imports: bool = False


@dataclass(frozen=True)
class Finding:
    """An input that did what no input may do, and how to see it again."""

    target: str
    seed: int
    index: int
    data: bytes
    problem: str
    """One line; findings with the same problem have the same cause, as a rule."""
    detail: str

    @property
    def repeat(self) -> str:
        """The command that shows it again."""
        return f"python tests/fuzz/run.py --target {self.target} --seed {self.seed} --only {self.index}"


def fuzz(
    target: Target, count: int, seed: int = 0, *, start: int = 0, seconds: float = _SECONDS, memory: int = _MEMORY
) -> list[Finding]:
    """Run inputs number `start` to `start + count` of a seed in this process, and return those that went wrong.

    Args:
        target: What is given the inputs.
        count: How many there are.
        seed: Of the mutations. Each input depends on seed, target and its number alone.
        start: Number of the first input.
        seconds: After which an input counts as one that hangs (in the main thread of POSIX systems).
        memory: How many bytes may be allocated beyond what the process has already.
    """
    corpus = target.corpus()
    found = []
    with bounded_memory(memory):
        for index in range(start, start + count):
            data = input_of(target, corpus, seed, index)
            gone_wrong = attempt(target, data, seconds)
            if gone_wrong is not None:
                found.append(Finding(target.name, seed, index, data, *gone_wrong))
    return found


def input_of(target: Target, corpus: list[bytes], seed: int, index: int) -> bytes:
    """Return an input: the corpus itself first, then mutations of it."""
    if index < len(corpus):
        return corpus[index]
    draw = Draw(np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index, *target.name.encode()]))))
    base = draw.one_of(corpus)
    if target.mutate is not None and draw.chance(0.5):
        return target.mutate(base, draw)
    return mutated(base, corpus, target.words, draw)


def attempt(target: Target, data: bytes, seconds: float = _SECONDS) -> tuple[str, str] | None:
    """Give a target one input; return what went wrong in a line, and in full, or None."""
    root = Path(tempfile.mkdtemp(prefix="fuzz-"))
    folder = root / "folder"
    folder.mkdir()
    (root / SECRET).write_text("nobody reads this\n")
    try:
        return _judged(target, data, folder, seconds) or _strays(root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextlib.contextmanager
def bounded_memory(more: int) -> Iterator[None]:
    """Let the process allocate `more` bytes beyond what it has, where the system can hold it to that."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


class _Hang(BaseException):
    """An input took too long."""


def _judged(target: Target, data: bytes, folder: Path, seconds: float) -> tuple[str, str] | None:
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with watched(folder, imports=target.imports) as seen, _alarm(seconds):
                problem = _run(target, data, folder)
        return (seen[0].splitlines()[0], "\n".join(seen)) if seen else problem
    finally:
        sys.dont_write_bytecode = bytecode


def _run(target: Target, data: bytes, folder: Path) -> tuple[str, str] | None:
    try:
        target.run(data, folder)
    except (AuditError, click.UsageError) as error:
        return _unclear(error.format_message() if isinstance(error, click.UsageError) else str(error))
    except Forbidden:
        return None  # told by the guard
    except _Hang:
        return "hang", traceback.format_exc()
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        return _signature(error), traceback.format_exc()
    return None


def _unclear(message: str) -> tuple[str, str] | None:
    """Return what is wrong with a refusal: it is one line, and does not steer a terminal."""
    if len(message.splitlines()) != 1:
        return f"a message of {len(message.splitlines())} lines", message
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in message):
        return "a control character in a message", ascii(message)
    return None


def _signature(error: BaseException) -> str:
    """Name an exception by its kind, and by the innermost line of auditkit that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "auditkit" in Path(frame.filename).parts] or frames[-1:]
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "nowhere"
    return f"{type(error).__name__} at {where}"


def _strays(root: Path) -> tuple[str, str] | None:
    """Return what lies beside the folder that was not there: writes that no hook of Python sees."""
    strays = sorted(path.name for path in root.iterdir() if path.name not in ("folder", SECRET))
    return ("written beside the folder", ", ".join(strays)) if strays else None


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise `_Hang` in the main thread after so many seconds; never if 0."""
    if not seconds or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise _Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
