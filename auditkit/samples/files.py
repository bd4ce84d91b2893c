"""Labelled image files: what a class folder and a table of labels have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from auditkit.samples.decode import decode_file
from auditkit.samples.pixels import BadImage
from auditkit.samples.stream import Row

__all__ = ["SUFFIXES", "ImageFile", "ImageFiles", "choose", "is_image_name"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageFile:
    """A file, its stable name and its class index."""

    id: str
    path: Path
    label: int


@dataclass(frozen=True)
class ImageFiles:
    """Rows that are image files."""

    files: tuple[ImageFile, ...]
    source: str
    class_names: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.files)

    def row_id(self, index: int) -> str:
        """Return the relative path of a file."""
        return self.files[index].id

    def load(self, index: int) -> Row:
        """Decode one file.

        Raises:
            BadImage: It is not an image that can be worked with.
        """
        file = self.files[index]
        if not is_image_name(file.path):
            raise BadImage(f"is not named like an image ({' '.join(SUFFIXES)})")
        return Row(decode_file(file.path), file.label)


def is_image_name(path: PurePath) -> bool:
    """Tell whether the name of a file ends like an image's."""
    return path.suffix.lower() in SUFFIXES


def choose(files: Sequence[ImageFile], limit: int | None) -> tuple[ImageFile, ...]:
    """Choose `limit` files by the sha256 of their ids, in that order; all of them in their own order if None.

    The choice mixes the classes, needs no seed, does not depend on the other files' order, and a smaller
    limit gives the beginning of a larger one.
    """
    if limit is None or limit >= len(files):
        return tuple(files)
    return tuple(sorted(files, key=lambda file: hashlib.sha256(file.id.encode()).digest())[:limit])
