"""Object masks from the annotations of a COCO-style JSON file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, BaseModel, Discriminator, Field, FiniteFloat, Tag, ValidationError, model_validator

from auditkit.errors import ExecutionError
from auditkit.samples.columns import printable
from auditkit.samples.pixels import Mask
from auditkit.samples.shapes import box_mask, polygon_mask, run_mask, unpack_runs

__all__ = ["read_coco"]

# Class folders often have one, to keep them in the order of the model's outputs.
_NUMBER_IN_FRONT = re.compile(r"\d+[ _-]+")


def _in_pairs(numbers: tuple[float, ...]) -> tuple[float, ...]:
    if len(numbers) % 2:
        raise ValueError(f"a polygon is x and y of each corner, not {len(numbers)} numbers")
    return numbers


_Polygon = Annotated[tuple[FiniteFloat, ...], AfterValidator(_in_pairs)]
_Extent = Annotated[FiniteFloat, Field(ge=0)]


class _Runs(BaseModel):
    size: tuple[int, int]
    counts: list[int] | str

    @property
    def lengths(self) -> list[int]:
        return unpack_runs(self.counts) if isinstance(self.counts, str) else self.counts

    @model_validator(mode="after")
    def _fill_the_image(self) -> _Runs:
        run_mask(self.lengths, self.size)
        return self


_Segmentation = Annotated[
    Annotated[_Runs, Tag("run lengths")] | Annotated[tuple[_Polygon, ...], Tag("polygons")],
    Discriminator(lambda value: "run lengths" if isinstance(value, dict) else "polygons"),
]


class _Annotation(BaseModel):
    image_id: int | str
    category_id: int | str | None = None
    bbox: tuple[FiniteFloat, FiniteFloat, _Extent, _Extent] | None = None
    segmentation: _Segmentation | None = None

    def draw(self, size: tuple[int, int]) -> Mask:
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


class _Image(BaseModel):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None

    @property
    def path(self) -> str:
        return printable(PurePosixPath(self.file_name).as_posix())


class _Category(BaseModel):
    id: int | str
    name: str


class _File(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category] = []


@dataclass(frozen=True)
class _Annotated:
    """The annotations of one image."""

    where: str
    size: tuple[int, int] | None
    """Height and width as the file has them, if it does."""
    annotations: tuple[_Annotation, ...]
    categories: Mapping[str, frozenset[int | str]]
    """The numbers of the categories by their names, in lower case."""

    def draw(self, size: tuple[int, int], class_name: str | None) -> Mask:
        """Draw the object of this class; all annotated objects if no category has its name.

        Raises:
            ExecutionError: Run lengths are for another size than the image.
        """
        wanted = self._categories_of(class_name)
        mask = np.zeros(self.size or size, dtype=np.bool_)
        for annotation in self.annotations:
            if wanted is not None and annotation.category_id not in wanted:
                continue
            drawn = annotation.draw(mask.shape)
            if drawn.shape != mask.shape:
                sizes = (
                    f"are for {drawn.shape[0]}x{drawn.shape[1]} pixels, the image has {mask.shape[0]}x{mask.shape[1]}"
                )
                raise ExecutionError(f"{self.where}: run lengths {sizes} (height x width)")
            mask |= drawn
        return mask

    def _categories_of(self, class_name: str | None) -> frozenset[int | str] | None:
        name = (class_name or "").casefold()
        return self.categories.get(name, self.categories.get(_NUMBER_IN_FRONT.sub("", name, count=1)))


def read_coco(path: Path, ids: Sequence[str]) -> dict[str, _Annotated]:
    """Return the annotations of the images with these ids, by id; images without any are left out.

    An image is found by its `file_name`: the path below the data set, or else the last part of it if that names one
    image. The object is where an annotation is whose category has the name of the image's class (in upper or lower
    case, with or without a number in front of it); where no category of the file has this name, it is where any
    annotation is. An annotation counts by its `segmentation` (polygons, or run lengths in numbers or compressed), or
    else by its `bbox`.

    Raises:
        ExecutionError: The file cannot be read, annotates images that it does not list, or none of these.
    """
    try:
        file = _File.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ExecutionError(f"{path}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ExecutionError(f"{path}: {_first_problem(error)}") from None
    found = _by_id(path, ids, file.images)
    if not found:
        names = f"its first file_name is {file.images[0].file_name!r}" if file.images else "it lists no images"
        example = f", the first image is {ids[0]!r}" if ids else ""
        raise ExecutionError(f"{path}: none of the {len(ids)} images is in it; {names}{example}")
    annotations = _by_image(path, file)
    categories: dict[str, frozenset[int | str]] = {}
    for category in file.categories:
        name = category.name.casefold()
        categories[name] = categories.get(name, frozenset()) | {category.id}
    return {
        name: _Annotated(
            f"{path}, {image.path}",
            (image.height, image.width) if image.height is not None and image.width is not None else None,
            tuple(annotations[image.id]),
            categories,
        )
        for name, image in found.items()
        if annotations[image.id]
    }


def _first_problem(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message[0].lower()}{message[1:]}" if where else f"no COCO annotations: {message}"


def _by_image(path: Path, file: _File) -> dict[int | str, list[_Annotation]]:
    annotations: dict[int | str, list[_Annotation]] = {}
    for image in file.images:
        if image.id in annotations:
            raise ExecutionError(f"{path}: two images have the id {image.id!r}")
        annotations[image.id] = []
    for at, annotation in enumerate(file.annotations):
        if annotation.image_id not in annotations:
            raise ExecutionError(f"{path}: annotations.{at}: there is no image {annotation.image_id!r}")
        annotations[annotation.image_id].append(annotation)
    return annotations


def _by_id(path: Path, ids: Sequence[str], images: Sequence[_Image]) -> dict[str, _Image]:
    """Return the image of each id: the one of the same path, else the one of the same name."""
    by_path: dict[str, _Image] = {}
    for image in images:
        if image.path in by_path:
            raise ExecutionError(f"{path}: file_name {image.path} is listed twice")
        by_path[image.path] = image
    found = {name: by_path[name] for name in ids if name in by_path}
    left: dict[str, list[_Image]] = {}
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
