"""Units on disk: what a check found on a shard, under a digest of everything that it depends on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from auditkit.check import Exhibit, Findings, Lesson, Mark, Panel, Tally
from auditkit.errors import ExecutionError
from auditkit.precision import Matches

__all__ = ["Store", "Unit", "unit_digest", "write_atomically"]

_META = "meta"
# Before the names of a lesson's arrays, which numpy would else take for its own arguments.
_LESSON = "lesson/"
_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Unit:
    """The findings of one check on one shard, with the time that they took."""

    findings: Findings
    seconds: float


def unit_digest(parts: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is either complete or not there.

    Raises:
        ExecutionError: the folder cannot be written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ExecutionError(f"cannot write {path}: {error.strerror or error}") from error


class Store:
    """A folder of finished units; whoever finds one need not compute it again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.npz"

    def holds(self, digest: str) -> bool:
        """Tell whether this unit is finished."""
        return self._path(digest).is_file()

    def put(self, digest: str, unit: Unit) -> None:
        """Keep a finished unit."""
        write_atomically(self._path(digest), _encode(unit))

    def put_lesson(self, digest: str, lesson: Lesson) -> None:
        """Keep what a check learned."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {_LESSON + name: array for name, array in lesson.items()}
        np.savez_compressed(buffer, **arrays)
        write_atomically(self._path(digest), buffer.getvalue())

    def get_lesson(self, digest: str) -> Lesson:
        """Return what a check learned.

        Raises:
            ExecutionError: the file is damaged.
        """
        path = self._path(digest)
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                return {name.removeprefix(_LESSON): arrays[name] for name in arrays.files}
        except _DAMAGE as error:
            raise _damaged(path, error) from error

    def get(self, digest: str) -> Unit:
        """Return a finished unit.

        Raises:
            ExecutionError: the file is damaged.
        """
        path = self._path(digest)
        try:
            return _decode(path.read_bytes())
        except _DAMAGE as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ExecutionError:
    return ExecutionError(f"{path} is damaged ({error}); delete it and run the same command again")


def _encode(unit: Unit) -> bytes:
    findings = unit.findings
    arrays: dict[str, npt.NDArray[Any]] = {f"column/{name}": column for name, column in findings.columns.items()}
    for name in ("forwards", "backwards", "attacked"):
        if (passes := getattr(findings, name)) is not None:
            arrays[name] = passes
    arrays |= {f"other/{name}": values for name, values in findings.others.items()}
    arrays |= {f"tally/{name}": tally.array for name, tally in findings.tallies.items()}
    arrays |= {
        f"match/{name}/{field.name}": getattr(matches, field.name)
        for name, matches in findings.matches.items()
        for field in fields(Matches)
    }
    for at, exhibit in enumerate(findings.exhibits):
        for which, panel in enumerate(exhibit.panels):
            arrays[f"panel/{at}/{which}"] = panel.array
    meta = {
        "seconds": unit.seconds,
        "columns": list(findings.columns),
        "others": list(findings.others),
        "tallies": {name: tally.combine for name, tally in findings.tallies.items()},
        "matches": list(findings.matches),
        "exhibits": [
            {
                "sample": exhibit.sample,
                "caption": exhibit.caption,
                "score": exhibit.score,
                "panels": [
                    {"title": panel.title, "kind": panel.kind, "marks": [asdict(mark) for mark in panel.marks]}
                    for panel in exhibit.panels
                ],
            }
            for exhibit in findings.exhibits
        ],
    }
    arrays[_META] = np.frombuffer(json.dumps(meta, allow_nan=False).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _decode(content: bytes) -> Unit:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        meta = json.loads(arrays[_META].tobytes())
        exhibits = tuple(
            Exhibit(
                item["sample"],
                item["caption"],
                item["score"],
                tuple(
                    Panel(
                        panel["title"],
                        panel["kind"],
                        arrays[f"panel/{at}/{which}"],
                        tuple(Mark(**mark) for mark in panel.get("marks", ())),
                    )
                    for which, panel in enumerate(item["panels"])
                ),
            )
            for at, item in enumerate(meta["exhibits"])
        )
        findings = Findings(
            {name: arrays[f"column/{name}"] for name in meta["columns"]},
            exhibits,
            arrays.get("forwards"),
            arrays.get("backwards"),
            arrays.get("attacked"),
            {name: arrays[f"other/{name}"] for name in meta.get("others", ())},
            {name: Tally(arrays[f"tally/{name}"], combine) for name, combine in meta.get("tallies", {}).items()},
            {
                name: Matches(**{field.name: arrays[f"match/{name}/{field.name}"] for field in fields(Matches)})
                for name in meta.get("matches", ())
            },
        )
    return Unit(findings, meta["seconds"])
