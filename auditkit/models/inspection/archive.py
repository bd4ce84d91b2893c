"""A stranger's zip archive, opened the way torch opens it, once its table of contents was seen to be plain."""

from __future__ import annotations

import io
import stat
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from auditkit.errors import AuditError, ExecutionError, UsageError
from auditkit.models.inspection.text import first_line, shown, size_in_words

__all__ = ["LARGEST_UNPACKED", "MOST_ENTRIES", "Archive", "is_archive"]

MOST_ENTRIES = 200_000
LARGEST_UNPACKED = 2**28
"""Bytes that all compressed entries may have once unpacked; torch compresses code only."""

_BEGINNING = b"PK\x03\x04"
_ENCRYPTED = 1


def is_archive(path: Path) -> bool:
    """Tell whether a file begins like the archives that torch writes (since version 1.6)."""
    with path.open("rb") as file:
        return file.read(len(_BEGINNING)) == _BEGINNING


class Archive:
    """The entries of an archive of torch's, by their names without the folder that all of them are in.

    The contents come from torch's own reader, so that what is looked at is what is loaded: two readers of zip files
    can be made to see two different archives.

    Attributes:
        sizes: bytes of each entry once unpacked.

    Raises:
        UsageError: the archive tries a trick.
        ExecutionError: it is damaged.
    """

    def __init__(self, source: Path | bytes, label: str) -> None:
        self.label = label
        try:
            with zipfile.ZipFile(source if isinstance(source, Path) else io.BytesIO(source)) as archive:
                entries = archive.infolist()
            total = source.stat().st_size if isinstance(source, Path) else len(source)
            self.sizes = _checked(entries, total, label)
            opened = str(source) if isinstance(source, Path) else io.BytesIO(source)
            self._reader: Any = torch._C.PyTorchFileReader(opened)
            records = self._reader.get_all_records()
        except AuditError:
            raise
        except Exception as error:
            raise ExecutionError(
                f"{label} is damaged: cut short, or changed after it was written ({first_line(error)})"
            ) from error
        if sorted(records) != sorted(self.sizes):
            raise UsageError(f"{label}: two readers of this archive see different entries in it; save it again")

    def read(self, name: str) -> bytes:
        """Return the bytes of an entry.

        Raises:
            ExecutionError: they are damaged, or not there.
        """
        try:
            content: bytes = self._reader.get_record(name)
        except Exception as error:
            raise ExecutionError(f"{self.label}: {shown(name)} in it cannot be read ({first_line(error)})") from error
        if len(content) != self.sizes.get(name):
            raise ExecutionError(f"{self.label}: {shown(name)} in it is not as long as the archive says")
        return content


def _checked(entries: list[zipfile.ZipInfo], total: int, label: str) -> dict[str, int]:
    """Return names (without their common folder) and sizes of entries that try no trick."""
    if len(entries) > MOST_ENTRIES:
        raise UsageError(f"{label} has {len(entries)} entries; auditkit takes {MOST_ENTRIES}")
    twice = [name for name, times in Counter(entry.filename for entry in entries).items() if times > 1]
    if twice:
        raise UsageError(f"{label} has two entries of the name {shown(twice[0])}")
    for entry in entries:
        _check_entry(entry, label)
    folders = {entry.filename.split("/", 1)[0] for entry in entries}
    if len(folders) != 1 or any("/" not in entry.filename for entry in entries):
        raise UsageError(
            f"{label}: its entries are not in one folder, as those of torch's archives are since torch 2.8; save or "
            "export the model again"
        )
    stored = sum(entry.file_size for entry in entries if entry.compress_type == zipfile.ZIP_STORED)
    unpacked = sum(entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
    if stored > total:
        raise UsageError(f"{label}: its entries lie over each other ({stored} bytes in a file of {total})")
    if unpacked > LARGEST_UNPACKED:
        raise UsageError(
            f"{label}: its compressed entries unpack to {size_in_words(unpacked)}; "
            f"auditkit takes {size_in_words(LARGEST_UNPACKED)}"
        )
    return {entry.filename.split("/", 1)[1]: entry.file_size for entry in entries}


def _check_entry(entry: zipfile.ZipInfo, label: str) -> None:
    name = entry.filename
    parts = name.split("/")
    odd = "\\" in name or ":" in name or not name.isprintable() or not all(parts) or ".." in parts or "." in parts
    # ZipInfo cuts a name at its first NUL; torch's reader does not.
    if odd or entry.orig_filename != name or stat.S_ISLNK(entry.external_attr >> 16):
        raise UsageError(f"{label}: torch never writes an entry of the name {shown(ascii(entry.orig_filename))}")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & _ENCRYPTED:
        raise UsageError(f"{label}: the entry {shown(name)} is encrypted, or packed in a way that torch never uses")
