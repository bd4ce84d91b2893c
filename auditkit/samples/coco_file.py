"""COCO-style JSON files of annotations, as they are written: images, categories, and what is annotated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, Discriminator, Field, FiniteFloat, Tag, ValidationError, model_validator

from auditkit.errors import ExecutionError
from auditkit.samples.columns import printable
from auditkit.samples.pixels import MAX_PIXELS, Mask
from auditkit.samples.shapes import box_mask, check_runs, polygon_mask, run_mask, unpack_runs

__all__ = ["Annotation", "Category", "CocoFile", "CocoImage", "annotations_by_image", "images_by_id", "load_coco"]


def _in_pairs(numbers: tuple[float, ...]) -> tuple[float, ...]:
    if len(numbers) % 2:
        raise ValueError(f"a polygon is x and y of each corner, not {len(numbers)} numbers")
    return numbers


# Beyond any image, and small enough to be counted with.
_FAR = 1e7
_Place = Annotated[FiniteFloat, Field(ge=-_FAR, le=_FAR)]
_Polygon = Annotated[tuple[_Place, ...], AfterValidator(_in_pairs)]
_Extent = Annotated[FiniteFloat, Field(ge=0, le=_FAR)]
_MOST_CLASSES = 1_000_000
_Side = Annotated[int, Field(ge=1)]


class _Runs(BaseModel):
    size: tuple[int, int]
    counts: list[int] | str

    @property
    def lengths(self) -> list[int]:
        return unpack_runs(self.counts) if isinstance(self.counts, str) else self.counts

    @model_validator(mode="after")
    def _fill_the_image(self) -> _Runs:
        check_runs(self.lengths, self.size)
        return self


_Segmentation = Annotated[
    Annotated[_Runs, Tag("run lengths")] | Annotated[tuple[_Polygon, ...], Tag("polygons")],
    Discriminator(lambda value: "run lengths" if isinstance(value, dict) else "polygons"),
]


class Annotation(BaseModel):
    """What is annotated in one place of an image."""

    image_id: int | str
    category_id: int | str | None = None
    bbox: tuple[_Place, _Place, _Extent, _Extent] | None = None
    segmentation: _Segmentation | None = None
    iscrowd: bool = False

    def draw(self, size: tuple[int, int]) -> Mask:
        """Return bool (height, width): true on what is annotated."""
        if isinstance(self.segmentation, _Runs):
            return run_mask(self.segmentation.lengths, self.segmentation.size)
        mask = np.zeros(size, dtype=np.bool_)
        if self.segmentation:
            for polygon in self.segmentation:
                mask |= polygon_mask(np.array(polygon, dtype=np.float64).reshape(-1, 2), size)
        elif self.bbox is not None:
            left, top, width, height = self.bbox
            mask |= box_mask(left, top, left + width, top + height, size)
        return mask


class CocoImage(BaseModel):
    """An image that the file lists."""

    id: int | str
    file_name: str
    width: _Side | None = None
    height: _Side | None = None

    @model_validator(mode="after")
    def _is_no_bomb(self) -> CocoImage:
        if (self.width or 1) * (self.height or 1) > MAX_PIXELS:
            raise ValueError(f"an image of more than {MAX_PIXELS // 1_000_000} megapixels, the most that is decoded")
        return self

    @property
    def path(self) -> str:
        """Its path, as ids of images are written."""
        return printable(PurePosixPath(self.file_name).as_posix())


class Category(BaseModel):
    """A kind of objects."""

    id: int | str
    name: str
    class_index: Annotated[int, Field(ge=0, lt=_MOST_CLASSES)] | None = None
    """The output of the network that stands for it: an addition to the format."""


class CocoFile(BaseModel):
    """The whole file."""

    images: list[CocoImage]
    annotations: list[Annotation]
    categories: list[Category] = []


def load_coco(path: Path) -> CocoFile:
    """Read a file of annotations.

    Raises:
        ExecutionError: It cannot be read, or is not of that form.
    """
    try:
        return CocoFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ExecutionError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ExecutionError(f"{path}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where = printable(".".join(str(part) for part in first["loc"]))
    message = printable(first["msg"].removeprefix("Value error, "))
    return f"{where}: {message[0].lower()}{message[1:]}" if where else f"no COCO annotations: {message}"


def annotations_by_image(path: Path, file: CocoFile) -> dict[int | str, list[Annotation]]:
    """Return the annotations of each image, by the image's id.

    Raises:
        ExecutionError: Two images have one id, or an annotation is of an image that the file does not list.
    """
    annotations: dict[int | str, list[Annotation]] = {}
    for image in file.images:
        if image.id in annotations:
            raise ExecutionError(f"{path}: two images have the id {image.id!r}")
        annotations[image.id] = []
    for at, annotation in enumerate(file.annotations):
        if annotation.image_id not in annotations:
            raise ExecutionError(f"{path}: annotations.{at}: there is no image {annotation.image_id!r}")
        annotations[annotation.image_id].append(annotation)
    return annotations


def images_by_id(path: Path, ids: Sequence[str], images: Sequence[CocoImage]) -> dict[str, CocoImage]:
    """Return the image of each id: the one of the same path, else the one of the same name.

    Raises:
        ExecutionError: A path is listed twice, or a name stands for several images.
    """
    by_path: dict[str, CocoImage] = {}
    for image in images:
        if image.path in by_path:
            raise ExecutionError(f"{path}: file_name {image.path} is listed twice")
        by_path[image.path] = image
    found = {name: by_path[name] for name in ids if name in by_path}
    left: dict[str, list[CocoImage]] = {}
    for image in images:
        if image.path not in found:
            left.setdefault(PurePosixPath(image.path).name, []).append(image)
    taken: dict[str, str] = {}
    for name in ids:
        base = PurePosixPath(name).name
        if name in found or base not in left:
            continue
        if base in taken or len(left[base]) > 1:
            both = (taken[base], name) if base in taken else tuple(image.path for image in left[base][:2])
            raise ExecutionError(
                f"{path}: {base} could be {both[0]} or {both[1]}; wanted file_name as a path below the data set"
            )
        taken[base] = name
        found[name] = left[base][0]
    return found
