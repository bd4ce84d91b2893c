"""Units on disk: what a check found on a shard, under a digest of everything that it depends on."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from auditkit.check import Exhibit, Findings, Lesson, Mark, Panel, Tally
from auditkit.errors import ExecutionError
from auditkit.precision import Matches
from auditkit.quoting import shortened

__all__ = ["Store", "StoredExhibit", "Unit", "unit_digest", "write_atomically"]

Arrays = Mapping[str, npt.NDArray[Any]]

_META = "meta"
# Before the names of a lesson's arrays, which numpy would else take for its own arguments.
_LESSON = "lesson/"
# Whatever zipfile, zlib, struct, tokenize, json or numpy raise of bytes that nobody wrote on purpose.
_DAMAGE = (Exception,)


@dataclass(frozen=True)
class Unit:
    """The findings of one check on one shard, with the time that they took."""

    findings: Findings
    seconds: float


@dataclass(frozen=True)
class StoredExhibit:
    """An exhibit whose pictures were left in the file of its unit."""

    sample: str
    caption: str
    score: float
    unit: str
    """Digest of the unit."""
    place: int
    """Which of the unit's exhibits it is."""


def unit_digest(parts: Mapping[str, Any]) -> str:
    """Return the sha256 (hex) of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def write_atomically(path: Path, content: bytes | memoryview) -> None:
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

    def is_empty(self) -> bool:
        """Tell whether there is no unit at all."""
        return not self.folder.is_dir() or not any(self.folder.iterdir())

    def holds(self, digest: str) -> bool:
        """Tell whether this unit is finished, and not damaged: every byte is looked at."""
        try:
            with zipfile.ZipFile(self._path(digest)) as archive:
                return archive.testzip() is None
        except _DAMAGE:
            return False

    def put(self, digest: str, unit: Unit) -> None:
        """Keep a finished unit."""
        write_atomically(self._path(digest), _encode(unit))

    def put_bytes(self, digest: str, content: bytes) -> None:
        """Keep a unit or a lesson that another store gave as `get_bytes`."""
        write_atomically(self._path(digest), content)

    def get_bytes(self, digest: str) -> bytes:
        """Return a unit or a lesson as it is stored.

        Raises:
            ExecutionError: it cannot be read.
        """
        try:
            return self._path(digest).read_bytes()
        except OSError as error:
            raise ExecutionError(f"cannot read {self._path(digest)}: {error.strerror or error}") from error

    def drop(self, digest: str) -> None:
        """Forget a unit, if there is one."""
        self._path(digest).unlink(missing_ok=True)

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

    def get_numbers(self, digest: str) -> tuple[Unit, tuple[StoredExhibit, ...]]:
        """Return a finished unit without its exhibits and attacked images, and where its exhibits are: cheap to hold.

        Raises:
            ExecutionError: the file is damaged.
        """
        with self._opened(digest) as arrays:
            meta = _meta(arrays)
            exhibits = tuple(
                StoredExhibit(item["sample"], item["caption"], item["score"], digest, place)
                for place, item in enumerate(meta["exhibits"])
            )
            return Unit(_findings(arrays, meta), meta["seconds"]), exhibits

    def get_exhibit(self, stored: StoredExhibit) -> Exhibit:
        """Return one exhibit of a finished unit, with its pictures.

        Raises:
            ExecutionError: the file is damaged.
        """
        with self._opened(stored.unit) as arrays:
            return _exhibit(arrays, _meta(arrays), stored.place)

    @contextmanager
    def _opened(self, digest: str) -> Iterator[Arrays]:
        """Open a unit, whose arrays are decoded when they are asked for."""
        path = self._path(digest)
        try:
            # Given a path, numpy leaves the file open when the archive turns out to be damaged.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                yield arrays
        except _DAMAGE as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ExecutionError:
    return ExecutionError(f"{path} is damaged ({shortened(str(error))}); delete it and run the same command again")


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
        meta = _meta(arrays)
        exhibits = tuple(_exhibit(arrays, meta, place) for place in range(len(meta["exhibits"])))
        findings = replace(_findings(arrays, meta), exhibits=exhibits, attacked=arrays.get("attacked"))
    return Unit(findings, meta["seconds"])


def _meta(arrays: Arrays) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads(arrays[_META].tobytes())
    return meta


def _findings(arrays: Arrays, meta: Mapping[str, Any]) -> Findings:
    """Return a unit's findings without its pictures: those of exhibits, and attacked images."""
    return Findings(
        columns={name: arrays[f"column/{name}"] for name in meta["columns"]},
        forwards=arrays.get("forwards"),
        backwards=arrays.get("backwards"),
        others={name: arrays[f"other/{name}"] for name in meta.get("others", ())},
        tallies={name: Tally(arrays[f"tally/{name}"], combine) for name, combine in meta.get("tallies", {}).items()},
        matches={
            name: Matches(**{field.name: arrays[f"match/{name}/{field.name}"] for field in fields(Matches)})
            for name in meta.get("matches", ())
        },
    )


def _exhibit(arrays: Arrays, meta: Mapping[str, Any], place: int) -> Exhibit:
    item = meta["exhibits"][place]
    panels = tuple(
        Panel(
            panel["title"],
            panel["kind"],
            arrays[f"panel/{place}/{which}"],
            tuple(Mark(**mark) for mark in panel.get("marks", ())),
        )
        for which, panel in enumerate(item["panels"])
    )
    return Exhibit(item["sample"], item["caption"], item["score"], panels)
