"""Images and labels that are in memory already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from auditkit.errors import ExecutionError
from auditkit.samples.columns import check_ids, label_problem, printable
from auditkit.samples.pixels import as_pixels, to_numpy
from auditkit.samples.stream import Row, Streamed, View

__all__ = ["checked_masks", "open_arrays"]


@dataclass(frozen=True, eq=False)
class _ArrayRows:
    """Rows of arrays: images (N, H, W, C), labels (N,), masks (N, H, W)."""

    images: NDArray[Any]
    labels: NDArray[np.int64]
    ids: tuple[str, ...] | None
    masks: NDArray[np.bool_] | None
    source: str
    class_names: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.images)

    def row_id(self, index: int) -> str:
        return str(index) if self.ids is None else self.ids[index]

    def load(self, index: int) -> Row:
        mask = None if self.masks is None else self.masks[index]
        return Row(as_pixels(self.images[index]), int(self.labels[index]), mask)


def open_arrays(
    images: Tensor | NDArray[Any],
    labels: Tensor | NDArray[Any] | Sequence[int],
    view: View,
    *,
    limit: int | None = None,
    class_names: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    masks: Tensor | NDArray[Any] | None = None,
    source: str = "arrays in memory",
) -> Streamed:
    """Open arrays; they are not copied, and become float32 only shard by shard as they are read.

    Args:
        images: (N, H, W, C), (N, C, H, W) or (N, H, W) for grey; C = 1 or 3; uint8, or floats in [0, 1].
        labels: Integers (N,), class indices from 0.
        view: How the images are to be delivered.
        limit: How many rows to use, from the first.
        class_names: Names of the classes, by index.
        ids: N unique names; the row numbers if None.
        masks: bool, or integers 0 and 1, (N, H, W), true on the object.
        source: What to call the arrays in messages.

    Raises:
        ExecutionError: A shape, type, label or id is not as stated, or there are no rows.
    """
    names = None if class_names is None else tuple(class_names)
    pixels = _channels_last(_array(images, "images", source), source)
    rows = _ArrayRows(
        pixels,
        _checked_labels(labels, len(pixels), names, source),
        None if ids is None else tuple(printable(name) for name in ids),
        None if masks is None else checked_masks(_array(masks, "masks", source), pixels.shape[:3], source),
        source,
        names,
    )
    if rows.ids is not None:
        check_ids(rows.ids, len(rows), source)
    return Streamed(rows, view, limit)


def _array(values: Any, what: str, source: str) -> NDArray[Any]:
    try:
        return to_numpy(values)
    except ValueError as error:
        raise ExecutionError(f"{source}: {what} do not form an array of one shape") from error


def _channels_last(images: NDArray[Any], source: str) -> NDArray[Any]:
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        wanted = "uint8 (0 to 255) or floats in [0, 1]"
        raise ExecutionError(f"{source}: images have type {images.dtype}, wanted {wanted}")
    if images.ndim == 3:
        return images[:, :, :, None]
    wanted = "(N, H, W, C) or (N, C, H, W) with C = 1 or 3, or (N, H, W)"
    if images.ndim != 4:
        raise ExecutionError(f"{source}: images have shape {images.shape}, wanted {wanted}")
    first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
    if first and last:
        problem = "could have their channels on axis 1 or on axis 3"
        remedy = "pad or resize them so that only the channel axis has length 1 or 3"
        raise ExecutionError(f"{source}: images of shape {images.shape} {problem}; {remedy}")
    if not first and not last:
        raise ExecutionError(f"{source}: images have shape {images.shape}, wanted {wanted}")
    return images if last else images.transpose(0, 2, 3, 1)


def _checked_labels(
    labels: Tensor | NDArray[Any] | Sequence[int], count: int, names: tuple[str, ...] | None, source: str
) -> NDArray[np.int64]:
    array = _array(labels, "labels", source)
    if array.shape != (count,):
        raise ExecutionError(f"{source}: labels have shape {array.shape}, wanted ({count},), one an image")
    if not np.issubdtype(array.dtype, np.integer) and count:
        raise ExecutionError(f"{source}: labels have type {array.dtype}, wanted integers (class indices)")
    for row in (int(array.argmin()), int(array.argmax())) if count else ():
        problem = label_problem(int(array[row]), names)
        if problem is not None:
            raise ExecutionError(f"{source}: row {row}: {problem}")
    return array.astype(np.int64)


def checked_masks(masks: NDArray[Any], wanted: tuple[int, ...] | None, source: str) -> NDArray[np.bool_]:
    """Return masks (N, H, W) as bool; `wanted` is their shape, if it is known.

    Raises:
        ExecutionError: They have another shape, or are neither bool nor integers 0 and 1.
    """
    if wanted is not None and masks.shape != wanted:
        raise ExecutionError(f"{source}: masks have shape {masks.shape}, wanted {wanted} like the images")
    if masks.ndim != 3:
        raise ExecutionError(f"{source}: masks have shape {masks.shape}, wanted (N, H, W)")
    if masks.dtype == np.bool_:
        return masks
    if not np.issubdtype(masks.dtype, np.integer) or (masks.size and not ((masks == 0) | (masks == 1)).all()):
        raise ExecutionError(f"{source}: masks of type {masks.dtype} must be bool, or integers 0 and 1")
    return masks.astype(np.bool_)
