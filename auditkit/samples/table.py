"""A folder of images and a CSV file with their labels, and with where their objects are."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from auditkit.errors import ExecutionError, did_you_mean
from auditkit.quoting import shortened
from auditkit.samples.columns import label_problem, printable
from auditkit.samples.files import ImageFile, ImageFiles, choose
from auditkit.samples.masks import Box, MaskedRows, Outline, Picture
from auditkit.samples.stream import Streamed, View

__all__ = ["open_table"]

_FILE_COLUMNS = ("file", "filename", "image", "path")
_LABEL_COLUMNS = ("label", "class", "y")
_MASK_COLUMN = "mask"
_CORNERS = ("left", "top", "right", "bottom")
_EXTENTS = ("x", "y", "width", "height")
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True)
class _Line:
    number: int
    name: str
    label: str
    marks: Mapping[str, str]
    """What stands in the columns that say where the object is."""


def open_table(
    root: Path, table: Path, view: View, limit: int | None = None, class_names: Sequence[str] | None = None
) -> Streamed:
    """Open the images that a CSV file (UTF-8, commas, a header) lists.

    It has a column `file` (or filename, image, path; relative to `root`) and a column `label` (or class, y).
    Labels are class indices throughout, or names throughout; names are looked up in `class_names`, or else in
    the sorted names that occur. Rows keep their order; images that are not listed are not used. An id is the
    listed path. `limit` chooses rows over the whole table, see `files.choose`.

    A column `mask` names pictures that are not zero on the object, relative to `root`. Or the columns `left`, `top`,
    `right`, `bottom`, or `x`, `y`, `width`, `height`, have a box around it in pixels of the image as it is in its file;
    right and bottom are those of the first pixels outside. Blank means that nobody knows where the object is.

    Raises:
        ExecutionError: Unreadable table, missing column, no rows, blank or wrong label, a file that is listed
            twice, is missing or lies outside `root`, a box that is none; the message has the line number and the
            file.
    """
    lines = list(_read_lines(table))
    if not lines:
        raise ExecutionError(f"{table}: there are no rows below the header, wanted one for each image")
    labels, names = _labels(table, lines, class_names)
    files = list(_image_files(root, table, lines, labels))
    rows = ImageFiles(choose(files, limit), str(root), names)
    if not lines[0].marks:
        return Streamed(rows, view)
    outlines = {file.id: _outline(root, table, line) for file, line in zip(files, lines, strict=True)}
    return Streamed(MaskedRows(rows, {name: outline for name, outline in outlines.items() if outline}), view)


def _read_lines(table: Path) -> Iterator[_Line]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            columns = reader.fieldnames or ()
            file_column = _column(table, columns, _FILE_COLUMNS)
            label_column = _column(table, columns, _LABEL_COLUMNS)
            mark_columns = _mark_columns(table, [name for name in columns if name not in (file_column, label_column)])
            for row in reader:
                if None in row:
                    raise _wrong(table, reader.line_num, f"has more than the {len(columns)} fields of the header")
                name, label = (row[file_column] or "").strip(), (row[label_column] or "").strip()
                if not name:
                    raise _wrong(table, reader.line_num, "names no file")
                if not label:
                    raise _wrong(table, reader.line_num, f"has no label for {name}")
                marks = {mark: (row[column] or "").strip() for mark, column in mark_columns.items()}
                yield _Line(reader.line_num, name, label, marks)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ExecutionError(f"{table}: cannot be read as a CSV file in UTF-8: {shortened(str(error))}") from error


def _column(table: Path, columns: Sequence[str], accepted: tuple[str, ...]) -> str:
    by_name = _by_name(columns)
    for name in accepted:
        if name in by_name:
            return by_name[name]
    found = shortened(", ".join(repr(column) for column in columns)) or "none"
    raise ExecutionError(f"{table}: wanted a column called {' or '.join(accepted)}, its columns are: {found}")


def _by_name(columns: Sequence[str]) -> dict[str, str]:
    return {column.strip().lower(): column for column in reversed(columns)}


def _mark_columns(table: Path, columns: Sequence[str]) -> dict[str, str]:
    """Return the columns that say where the object is, by their names in lower case; none if there are none."""
    by_name = _by_name(columns)
    kinds = [kind for kind in ((_MASK_COLUMN,), _CORNERS, _EXTENTS) if all(name in by_name for name in kind)]
    if len(kinds) > 1:
        both = " and ".join(", ".join(kind) for kind in kinds[:2])
        raise ExecutionError(f"{table}: has columns {both} that both say where the object is; wanted one of them")
    return {name: by_name[name] for kind in kinds for name in kind}


def _outline(root: Path, table: Path, line: _Line) -> Outline | None:
    if not any(line.marks.values()):
        return None
    if _MASK_COLUMN in line.marks:
        return Picture(_file_below(root, table, line.number, line.marks[_MASK_COLUMN]))
    numbers = [_number(table, line, name, text) for name, text in line.marks.items()]
    left, top, third, fourth = numbers
    right, bottom = (third, fourth) if "right" in line.marks else (left + third, top + fourth)
    if right <= left or bottom <= top:
        box = ", ".join(f"{name} {text}" for name, text in line.marks.items())
        raise _wrong(table, line.number, f"the box of {line.name} is empty: {box}")
    return Box(left, top, right, bottom, f"{table}, line {line.number}")


def _number(table: Path, line: _Line, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _wrong(table, line.number, f"{name} of {line.name} is {text!r}, wanted a number of pixels")
    return value


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
        path = _file_below(root, table, line.number, line.name)
        name = printable(PurePosixPath(line.name).as_posix())
        if name in first_lines:
            raise _wrong(table, line.number, f"{name} was listed before, on line {first_lines[name]}")
        first_lines[name] = line.number
        yield ImageFile(name, path, label)


def _file_below(root: Path, table: Path, number: int, name: str) -> Path:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise _wrong(table, number, f"{name} lies outside {root}; wanted a path below it")
    if not (root / path).is_file():
        raise _wrong(table, number, f"{printable(path.as_posix())} is not a file in {root}")
    return root / path


def _wrong(table: Path, number: int, problem: str) -> ExecutionError:
    return ExecutionError(f"{table}, line {number}: {shortened(problem)}")
