"""What an audit that has not ended yet leaves in its folder: what it is about, and what was under way."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from auditkit.errors import ExecutionError, UsageError

__all__ = ["UNFINISHED", "Journal"]

UNFINISHED = "unfinished.jsonl"
"""The file; it is there for as long as the audit in the folder has not ended."""

# Of an image's sha256: enough to tell that it is not what it was.
_DIGITS = 16


class Journal:
    """The unfinished audit of a folder: one JSON text a line, so that a line cut short spoils no other."""

    def __init__(self, folder: Path, subject: Mapping[str, str]) -> None:
        """Begin an audit of `subject` (what it is about, in words, by name), or go on with the one in the folder.

        Raises:
            UsageError: the audit in the folder is about something else.
            ExecutionError: the folder cannot be written to.
        """
        self._path = folder / UNFINISHED
        self._images: dict[str, str] = {}
        under_way: set[str] = set()
        for line in _lines(self._path):
            _check_subject(folder, _names(line.get("subject")), subject)
            self._images |= _names(line.get("images"))
            under_way |= {str(line["begun"])} if "begun" in line else set()
            under_way -= {str(line.get("ended"))}
        self.suspects = frozenset(under_way)
        """Digests of the units that an earlier process was at when it died."""
        self._write({"subject": dict(subject)})

    def see(self, ids: Sequence[str], digests: Sequence[str]) -> None:
        """Note images as they were read.

        Raises:
            ExecutionError: one is not what it was when the audit began.
        """
        seen = {name: digest[:_DIGITS] for name, digest in zip(ids, digests, strict=True)}
        for name, digest in seen.items():
            if self._images.get(name, digest) != digest:
                raise ExecutionError(
                    f"{name} is not the image (or label) that it was when this audit began; put it back, or begin "
                    "anew with --start-over"
                )
        fresh = {name: digest for name, digest in seen.items() if name not in self._images}
        if fresh:
            self._write({"images": fresh})

    @contextmanager
    def at(self, digest: str) -> Iterator[None]:
        """Note for how long a unit is under way in this process."""
        self._write({"begun": digest})
        try:
            yield
        finally:
            self._write({"ended": digest})

    def close(self) -> None:
        """The audit has ended."""
        self._path.unlink(missing_ok=True)

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                # Behind a line that was cut short, a new one begins.
                file.write(f"\n{json.dumps(line)}\n")
        except OSError as error:
            raise ExecutionError(f"cannot write {self._path}: {error.strerror or error}") from error


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise ExecutionError(f"cannot read {path}: {error.strerror or error}") from error
    for line in text.splitlines():
        try:
            parsed = json.loads(line)
        except ValueError:
            continue
        if isinstance(parsed, dict):
            yield parsed


def _names(value: object) -> dict[str, str]:
    """Return what a line says of names; nothing where it was spoiled."""
    return {str(name): str(text) for name, text in value.items()} if isinstance(value, dict) else {}


def _check_subject(folder: Path, begun: Mapping[str, str], now: Mapping[str, str]) -> None:
    changed = [name for name in now if begun.get(name, now[name]) != now[name]]
    if changed:
        name = changed[0]
        more = f" (and other {', '.join(changed[1:])})" if len(changed) > 1 else ""
        raise UsageError(
            f"{folder} holds an unfinished audit with another {name}: it began with {begun[name]}, and now it is "
            f"{now[name]}{more}; put it back, choose another --out, or begin anew with --start-over"
        )
