"""Where the object is in an image: masks beside a data set, and rows that carry them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np

from auditkit.errors import ExecutionError, UsageError
from auditkit.samples.archive import load_arrays, texts
from auditkit.samples.coco import read_coco
from auditkit.samples.columns import check_ids, printable
from auditkit.samples.decode import decode_mask
from auditkit.samples.files import is_image_name
from auditkit.samples.folder import visible
from auditkit.samples.memory import checked_masks
from auditkit.samples.pixels import BadImage, Mask
from auditkit.samples.shapes import box_mask
from auditkit.samples.stream import Row, RowSource

__all__ = ["Box", "MaskedRows", "Outline", "Picture", "open_masks"]

_ACCEPTED = "a folder of mask pictures, a COCO .json file, or an .npz file with masks"


class Outline(Protocol):
    """Where the object is in one image."""

    @property
    def where(self) -> str:
        """What the user would look at if it is wrong."""

    def draw(self, size: tuple[int, int], class_name: str | None) -> Mask:
        """Return the mask of the object of this class in an image of this size; all false where there is none."""


@dataclass(frozen=True)
class MaskedRows:
    """Rows with masks; a row without an outline gets an empty mask: nobody said where its object is."""

    rows: RowSource
    outlines: Mapping[str, Outline]
    """By the id of a row."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, by index."""
        return self.rows.class_names

    @property
    def source(self) -> str:
        """What the user named."""
        return self.rows.source

    def __len__(self) -> int:
        return len(self.rows)

    def row_id(self, index: int) -> str:
        """Return the name of a row."""
        return self.rows.row_id(index)

    def load(self, index: int) -> Row:
        """Read one row and its mask.

        Raises:
            BadImage: The image or the picture of its mask cannot be read.
            ExecutionError: The mask has another size than the image.
        """
        row, name = self.rows.load(index), self.row_id(index)
        height, width = row.pixels.shape[:2]
        outline = self.outlines.get(name)
        if outline is None:
            return replace(row, mask=np.zeros((height, width), dtype=np.bool_))
        names = self.class_names or ()
        mask = outline.draw((height, width), names[row.label] if row.label < len(names) else None)
        if mask.shape != (height, width):
            sizes = f"is {mask.shape[0]}x{mask.shape[1]}, but the image {name} is {height}x{width} (height x width)"
            raise ExecutionError(f"{outline.where}: the mask {sizes}")
        return replace(row, mask=mask)


@dataclass(frozen=True)
class Picture:
    """A picture that is not zero on the object."""

    path: Path

    @property
    def where(self) -> str:
        """The path."""
        return printable(str(self.path))

    def draw(self, size: tuple[int, int], class_name: str | None) -> Mask:
        """Decode the picture, whatever its size.

        Raises:
            BadImage: It cannot be read.
        """
        try:
            return decode_mask(self.path)
        except BadImage as error:
            raise BadImage(f"has a mask, {self.where}, that {error}") from error


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the image as it is in its file."""

    left: float
    top: float
    right: float
    bottom: float
    where: str

    def draw(self, size: tuple[int, int], class_name: str | None) -> Mask:
        """Fill the box.

        Raises:
            ExecutionError: No pixel of the image lies in it.
        """
        mask = box_mask(self.left, self.top, self.right, self.bottom, size)
        if not mask.any():
            raise ExecutionError(f"{self.where}: the box covers no pixel of the image, {size[0]}x{size[1]}")
        return mask


@dataclass(frozen=True, eq=False)
class _Drawn:
    mask: Mask
    where: str

    def draw(self, size: tuple[int, int], class_name: str | None) -> Mask:
        return self.mask


def open_masks(path: Path, rows: RowSource) -> MaskedRows:
    """Return the rows with the masks that lie at `path`, which go before masks that the rows have.

    A folder holds a picture for each image, at the same relative path and with the ending of any image. A `.json` file
    is read as COCO, see `coco.read_coco`. An `.npz` file has `masks` (N, H, W) and, if they are not those of the
    positions, `ids` (N,). Rows without a mask may be among them.

    Raises:
        UsageError: There is nothing of that name or kind.
        ExecutionError: It cannot be read, or no image has a mask in it.
    """
    ids = [rows.row_id(index) for index in range(len(rows))]
    if path.is_dir():
        outlines: Mapping[str, Outline] = _pictures(path, ids)
    elif not path.exists():
        raise UsageError(f"{path}: there is no such file or folder; wanted {_ACCEPTED}")
    elif path.suffix.lower() == ".json":
        outlines = read_coco(path, ids)
    elif path.suffix.lower() == ".npz":
        outlines = _archived(path, ids)
    else:
        raise UsageError(f"{path}: this file is not known to hold masks; wanted {_ACCEPTED}")
    return MaskedRows(rows, outlines)


def _pictures(folder: Path, ids: Sequence[str]) -> dict[str, Outline]:
    found: dict[PurePosixPath, dict[str, list[Path]]] = {}
    outlines: dict[str, Outline] = {}
    for name in ids:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            continue
        if path.parent not in found:
            found[path.parent] = _by_stem(folder / path.parent)
        candidates = found[path.parent].get(_stem(path), [])
        exact = [candidate for candidate in candidates if printable(candidate.name) == path.name]
        if len(candidates) > 1 and not exact:
            both = " and ".join(printable(candidate.name) for candidate in candidates[:2])
            raise ExecutionError(f"{folder}: {both} could both be the mask of {name}; wanted one of them")
        for candidate in (exact or candidates)[:1]:
            outlines[name] = Picture(candidate)
    if not outlines:
        wanted = "a picture with the name of its image" + (f", such as {ids[0]}" if ids else "")
        raise ExecutionError(f"{folder}: none of the {len(ids)} images has a mask in it; wanted {wanted}")
    return outlines


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    stems: dict[str, list[Path]] = {}
    if folder.is_dir():
        for path in visible(folder):
            if is_image_name(path):
                stems.setdefault(_stem(PurePosixPath(printable(path.name))), []).append(path)
    return stems


def _stem(path: PurePosixPath) -> str:
    """Return the name without the ending of an image; other endings belong to the name."""
    return path.stem if is_image_name(path) else path.name


def _archived(path: Path, ids: Sequence[str]) -> dict[str, Outline]:
    source = str(path)
    found, stored = load_arrays(path, ("masks", "ids"))
    if "masks" not in found:
        raise ExecutionError(f"{path}: wanted an array called masks, its arrays are: {stored or 'none'}")
    masks = checked_masks(found["masks"], None, source)
    if "ids" in found:
        own = tuple(printable(name) for name in texts(found["ids"], source))
        check_ids(own, len(masks), source, of="masks")
    else:
        if len(masks) != len(ids):
            raise ExecutionError(f"{path}: {len(masks)} masks for {len(ids)} images; masks of some need an array ids")
        own = tuple(str(row) for row in range(len(masks)))
    wanted = set(ids)
    outlines: dict[str, Outline] = {
        name: _Drawn(mask, f"{source}, mask {name}") for name, mask in zip(own, masks, strict=True) if name in wanted
    }
    if not outlines:
        names = f"its first id is {own[0]!r}, the first image is {ids[0]!r}" if own and ids else "there are none"
        raise ExecutionError(f"{path}: none of the {len(ids)} images has a mask in it: {names}")
    return outlines
