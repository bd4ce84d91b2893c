"""Object masks from the annotations of a COCO-style JSON file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auditkit.errors import ExecutionError
from auditkit.samples.coco_file import Annotation, annotations_by_image, images_by_id, load_coco
from auditkit.samples.pixels import Mask

__all__ = ["read_coco"]

# Class folders often have one, to keep them in the order of the model's outputs.
_NUMBER_IN_FRONT = re.compile(r"\d+[ _-]+")


@dataclass(frozen=True)
class _Annotated:
    """The annotations of one image."""

    where: str
    size: tuple[int, int] | None
    """Height and width as the file has them, if it does."""
    annotations: tuple[Annotation, ...]
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
    file = load_coco(path)
    found = images_by_id(path, ids, file.images)
    if not found:
        names = f"its first file_name is {file.images[0].file_name!r}" if file.images else "it lists no images"
        example = f", the first image is {ids[0]!r}" if ids else ""
        raise ExecutionError(f"{path}: none of the {len(ids)} images is in it; {names}{example}")
    annotations = annotations_by_image(path, file)
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
