"""A folder of images and a CSV file with their labels."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from auditkit.errors import ExecutionError, did_you_mean
from auditkit.samples.columns import label_problem, printable
from auditkit.samples.files import ImageFile, ImageFiles, choose
from auditkit.samples.stream import Streamed, View

__all__ = ["open_table"]

_FILE_COLUMNS = ("file", "filename", "image", "path")
_LABEL_COLUMNS = ("label", "class", "y")
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True)
class _Line:
    number: int
    name: str
    label: str


def open_table(
    root: Path, table: Path, view: View, limit: int | None = None, class_names: Sequence[str] | None = None
) -> Streamed:
    """Open the images that a CSV file (UTF-8, commas, a header) lists.

    It has a column `file` (or filename, image, path; relative to `root`) and a column `label` (or class, y).
    Labels are class indices throughout, or names throughout; names are looked up in `class_names`, or else in
    the sorted names that occur. Rows keep their order; images that are not listed are not used. An id is the
    listed path. `limit` chooses rows over the whole table, see `files.choose`.

    Raises:
        ExecutionError: Unreadable table, missing column, no rows, blank or wrong label, a file that is listed
            twice, is missing or lies outside `root`; the message has the line number and the file.
    """
    lines = list(_read_lines(table))
    if not lines:
        raise ExecutionError(f"{table}: there are no rows below the header, wanted one for each image")
    labels, names = _labels(table, lines, class_names)
    files = list(_image_files(root, table, lines, labels))
    return Streamed(ImageFiles(choose(files, limit), str(root), names), view)


def _read_lines(table: Path) -> Iterator[_Line]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            columns = reader.fieldnames or ()
            file_column = _column(table, columns, _FILE_COLUMNS)
            label_column = _column(table, columns, _LABEL_COLUMNS)
            for row in reader:
                if None in row:
                    raise _wrong(table, reader.line_num, f"has more than the {len(columns)} fields of the header")
                name, label = (row[file_column] or "").strip(), (row[label_column] or "").strip()
                if not name:
                    raise _wrong(table, reader.line_num, "names no file")
                if not label:
                    raise _wrong(table, reader.line_num, f"has no label for {name}")
                yield _Line(reader.line_num, name, label)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ExecutionError(f"{table}: cannot be read as a CSV file in UTF-8: {error}") from error


def _column(table: Path, columns: Sequence[str], accepted: tuple[str, ...]) -> str:
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    for name in accepted:
        if name in by_name:
            return by_name[name]
    found = ", ".join(repr(column) for column in columns) or "none"
    raise ExecutionError(f"{table}: wanted a column called {' or '.join(accepted)}, its columns are: {found}")


def _labels(
    table: Path, lines: list[_Line], class_names: Sequence[str] | None
) -> tuple[list[int], tuple[str, ...] | None]:
    names = None if class_names is None else tuple(class_names)
    numbered = [line for line in lines if _WHOLE_NUMBER.fullmatch(line.label)]
    if len(numbered) == len(lines):
        return [_checked_number(table, line, names) for line in lines], names
    if names is None:
        names = _names_that_occur(table, lines, numbered)
    index = {name: position for position, name in enumerate(names)}
    for line in lines:
        if line.label not in index:
            problem = f"label {line.label!r} of {line.name} is not a class name{did_you_mean(line.label, index)}"
            raise _wrong(table, line.number, problem)
    return [index[line.label] for line in lines], names


def _checked_number(table: Path, line: _Line, names: tuple[str, ...] | None) -> int:
    label = int(line.label)
    problem = label_problem(label, names)
    if problem is not None:
        raise _wrong(table, line.number, f"{line.name}: {problem}")
    return label


def _names_that_occur(table: Path, lines: list[_Line], numbered: list[_Line]) -> tuple[str, ...]:
    if numbered:
        problem = f"label {numbered[0].label!r} of {numbered[0].name} is a number where others are names"
        raise _wrong(table, numbered[0].number, f"{problem}; use one or the other, or give the class names")
    for line in lines:
        # As names, 10.0 would come before 2.0: a wrong label without a word.
        if _is_number(line.label):
            problem = f"label {line.label!r} of {line.name} is neither a class index nor a name"
            raise _wrong(table, line.number, f"{problem}; wanted whole numbers like 3")
    return tuple(sorted({line.label for line in lines}))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _image_files(root: Path, table: Path, lines: list[_Line], labels: list[int]) -> Iterator[ImageFile]:
    first_lines: dict[str, int] = {}
    for line, label in zip(lines, labels, strict=True):
        path = PurePosixPath(line.name)
        if path.is_absolute() or ".." in path.parts:
            raise _wrong(table, line.number, f"{line.name} lies outside {root}; wanted a path below it")
        name = printable(path.as_posix())
        if name in first_lines:
            raise _wrong(table, line.number, f"{name} was listed before, on line {first_lines[name]}")
        if not (root / path).is_file():
            raise _wrong(table, line.number, f"{name} is not a file in {root}")
        first_lines[name] = line.number
        yield ImageFile(name, root / path, label)


def _wrong(table: Path, number: int, problem: str) -> ExecutionError:
    return ExecutionError(f"{table}, line {number}: {problem}")
