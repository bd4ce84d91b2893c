"""Images whose objects are boxed in a COCO-style JSON file: the data set of a detector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from auditkit.errors import ExecutionError, UsageError, did_you_mean
from auditkit.samples.coco_file import Annotation, Category, CocoImage, annotations_by_image, load_coco
from auditkit.samples.files import ImageFile, ImageFiles, choose
from auditkit.samples.objects import Objects
from auditkit.samples.stream import Row, Streamed, View

__all__ = ["open_boxes"]


@dataclass(frozen=True)
class _Classes:
    """Which class of the network each category is, and what the classes are called."""

    index: Mapping[int | str | None, int]
    names: tuple[str, ...]


@dataclass(frozen=True)
class _BoxedRows:
    """Image files with the objects that are annotated in them."""

    files: ImageFiles
    images: Mapping[str, CocoImage]
    annotations: Mapping[int | str, Sequence[Annotation]]
    classes: _Classes

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.classes.names

    @property
    def source(self) -> str:
        return self.files.source

    def __len__(self) -> int:
        return len(self.files)

    def row_id(self, index: int) -> str:
        return self.files.row_id(index)

    def load(self, index: int) -> Row:
        row, image = self.files.load(index), self.images[self.row_id(index)]
        stated = image.height is not None and image.width is not None
        height, width = (image.height, image.width) if stated else row.pixels.shape[:2]
        objects = _objects(self.annotations[image.id], self.classes, (int(height or 0), int(width or 0)))
        return Row(row.pixels, objects.main_class, objects=objects)


def open_boxes(
    folder: Path,
    annotations: Path,
    view: View,
    limit: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Streamed:
    """Open the images that a COCO-style file lists, with the boxes of their objects.

    An image lies in `folder` under its `file_name`, or under the last part of it. An annotation counts by its `bbox`;
    what of it lies outside the image is cut off. A category is the class whose name it has in `class_names`; without
    these it is its `class_index`, an addition to the format, if all categories have one, and else its place among all
    categories in the order of their ids.

    Raises:
        UsageError: There is no such folder or file.
        ExecutionError: The file cannot be read or is no such file, or a category is no class.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder; boxes go with a folder of images")
    if not annotations.is_file():
        siblings = [path.name for path in annotations.parent.glob("*.json")] if annotations.parent.is_dir() else []
        raise UsageError(f"{annotations}: there is no such file of boxes{did_you_mean(annotations.name, siblings)}")
    file = load_coco(annotations)
    by_image = annotations_by_image(annotations, file)
    images = {image.path: image for image in file.images}
    if len(images) < len(file.images):
        raise ExecutionError(f"{annotations}: a file_name is listed twice; wanted each image once")
    files = choose(tuple(_files(folder, annotations, file.images)), limit)
    classes = _classes(file.categories, class_names, annotations)
    _check_categories(file.annotations, classes, annotations)
    rows = _BoxedRows(ImageFiles(files, str(folder), classes.names), images, by_image, classes)
    return Streamed(rows, view)


def _files(folder: Path, annotations: Path, images: Sequence[CocoImage]) -> Iterator[ImageFile]:
    for image in images:
        path = PurePosixPath(image.file_name)
        if path.is_absolute() or ".." in path.parts:
            raise ExecutionError(f"{annotations}: {image.path} lies outside {folder}; wanted a path below it")
        place = folder / path
        yield ImageFile(image.path, place if place.is_file() else folder / path.name, 0)


def _classes(categories: Sequence[Category], names: Sequence[str] | None, where: Path) -> _Classes:
    if not categories:
        raise ExecutionError(f"{where}: there are no categories in it; boxes need the kind of each object")
    if names is not None:
        known = {name.casefold(): number for number, name in enumerate(names)}
        for category in categories:
            if category.name.casefold() not in known:
                hint = did_you_mean(category.name, names)
                raise ExecutionError(f"{where}: the category {category.name!r} is none of the class names{hint}")
        named: dict[int | str | None, int] = {each.id: known[each.name.casefold()] for each in categories}
        return _Classes(named, tuple(names))
    index: dict[int | str | None, int] = {
        each.id: each.class_index for each in categories if each.class_index is not None
    }
    if len(index) < len(categories):
        order = sorted((each.id for each in categories), key=lambda number: (isinstance(number, str), number))
        index = {number: place for place, number in enumerate(order)}
    called = {index[each.id]: each.name for each in categories}
    if len(called) < len(categories):
        raise ExecutionError(f"{where}: two categories have one id or one class_index; wanted one a category")
    return _Classes(index, tuple(called.get(number, f"class {number}") for number in range(max(called) + 1)))


def _check_categories(annotations: Sequence[Annotation], classes: _Classes, where: Path) -> None:
    for at, annotation in enumerate(annotations):
        if annotation.category_id not in classes.index:
            raise ExecutionError(f"{where}: annotations.{at}: there is no category {annotation.category_id!r}")
        if annotation.bbox is None:
            raise ExecutionError(f"{where}: annotations.{at}: there is no bbox; wanted left, top, width, height")


def _objects(annotations: Sequence[Annotation], classes: _Classes, size: tuple[int, int]) -> Objects:
    """Return what lies inside the image: boxes in pixels of an image of this size become shares of it."""
    height, width = size
    found = []
    for annotation in annotations:
        left, top, wide, high = annotation.bbox or (0.0, 0.0, 0.0, 0.0)
        corners = np.array([left / width, top / height, (left + wide) / width, (top + high) / height], dtype=np.float32)
        box = corners.clip(0.0, 1.0)
        if (box[:2] < box[2:]).all():
            found.append((box, classes.index[annotation.category_id], annotation.iscrowd))
    return Objects(
        torch.from_numpy(np.array([box for box, _, _ in found], dtype=np.float32).reshape(-1, 4)),
        torch.tensor([number for _, number, _ in found], dtype=torch.int64),
        torch.tensor([crowd for _, _, crowd in found], dtype=torch.bool),
        size,
    )
