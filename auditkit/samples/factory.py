"""Torch-style map data sets, given or made by a function of the user's."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from auditkit.errors import ExecutionError
from auditkit.imports import import_object, last_line
from auditkit.samples.columns import check_ids, label_problem, printable
from auditkit.samples.decode import decode_image
from auditkit.samples.pixels import BadImage, Pixels, as_pixels, to_numpy
from auditkit.samples.stream import Row, Streamed, View

__all__ = ["MapDataset", "call_factory", "is_factory_spec", "is_map_dataset", "open_map_dataset"]

# A module or a Python file, and a name in it; neither a drive letter nor a web address.
_SPEC = re.compile(r"(?:[^\W\d]\w*(?:\.\w+)*|.+\.py):[^\W\d]\w*(?:\.\w+)*")


class MapDataset(Protocol):
    """What torch calls a map-style data set of (image, label) pairs."""

    def __len__(self) -> int:
        """Return the number of pairs."""

    def __getitem__(self, index: int, /) -> Any:
        """Return one pair."""


def is_map_dataset(value: object) -> TypeGuard[MapDataset]:
    """Tell whether a value has a length and items by position: not a class, a mapping, text, or an array."""
    if isinstance(value, type | Mapping | str | bytes | tuple | np.ndarray | Tensor):
        return False
    return hasattr(value, "__len__") and hasattr(value, "__getitem__")


def is_factory_spec(text: str) -> bool:
    """Tell whether a text reads `module:factory` or `path.py:factory`."""
    return _SPEC.fullmatch(text) is not None


def call_factory(spec: str) -> object:
    """Import what `module:factory` or `path.py:factory` names and, if it is callable, call it.

    Raises:
        UsageError: There is no such module, file or name.
        ExecutionError: The import or the call raised an exception.
    """
    factory = import_object(spec)
    if is_map_dataset(factory) or not callable(factory):
        return factory
    try:
        made: object = factory()
    except Exception as error:
        raise ExecutionError(f"calling {spec} failed: {last_line(error)}") from error
    return made


def open_map_dataset(
    dataset: MapDataset,
    view: View,
    *,
    source: str,
    limit: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Streamed:
    """Open a map data set; its items are asked for as they are read.

    Args:
        dataset: Gives (image, label). An image is a Pillow image, or a tensor or array of uint8 or of floats
            in [0, 1]: (H, W) for grey, else uint8 is taken as (H, W, C) and floats as (C, H, W), or the other
            way round if only that has C = 1 or 3. A label is an integer from 0. Optional attributes are
            `classes` (names by index) and `ids` (unique names; positions otherwise).
        view: How the images are to be delivered.
        source: What to call the data set in messages.
        limit: How many items to use, from the first.
        class_names: Names of the classes by index, instead of `classes`.

    Raises:
        ExecutionError: It has no items, `ids` do not fit, or the first item is not as stated.
    """
    names = class_names if class_names is not None else getattr(dataset, "classes", None)
    ids = getattr(dataset, "ids", None)
    rows = _MapRows(
        dataset,
        None if ids is None else tuple(printable(str(name)) for name in ids),
        source,
        None if names is None else tuple(str(name) for name in names),
    )
    if rows.ids is not None:
        check_ids(rows.ids, len(rows), source)
    return Streamed(rows, view, limit)


@dataclass(frozen=True, eq=False)
class _MapRows:
    dataset: MapDataset
    ids: tuple[str, ...] | None
    source: str
    class_names: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.dataset)

    def row_id(self, index: int) -> str:
        return str(index) if self.ids is None else self.ids[index]

    def load(self, index: int) -> Row:
        try:
            item = self.dataset[index]
        # The data set is the user's own code.
        except Exception as error:
            raise BadImage(f"cannot be read: {last_line(error)}") from error
        if not isinstance(item, tuple | list) or len(item) != 2:
            got = f"{type(item).__name__} of {len(item)}" if isinstance(item, tuple | list) else type(item).__name__
            raise ExecutionError(f"{self.source}: item {self.row_id(index)}: wanted (image, label), got a {got}")
        image, label = item
        return Row(_pixels(image), self._label(index, label))

    def _label(self, index: int, label: Any) -> int:
        place = f"{self.source}: item {self.row_id(index)}"
        try:
            number = operator.index(label)
        except TypeError as error:
            got = type(label).__name__
            raise ExecutionError(f"{place}: wanted an integer label (a class index), got a {got}") from error
        problem = label_problem(number, self.class_names)
        if problem is not None:
            raise ExecutionError(f"{place}: {problem}")
        return number


def _pixels(image: object) -> Pixels:
    if isinstance(image, Image.Image):
        return decode_image(image)
    if isinstance(image, Tensor | np.ndarray):
        return as_pixels(_channels_last(to_numpy(image)))
    raise BadImage(f"is a {type(image).__name__}, wanted a Pillow image, a tensor or an array")


def _channels_last(array: NDArray[Any]) -> NDArray[Any]:
    if array.ndim == 2:
        return array[:, :, None]
    if array.ndim != 3 or not {array.shape[0], array.shape[2]} & {1, 3}:
        raise BadImage(f"has shape {array.shape}, wanted (H, W, C) or (C, H, W) with C = 1 or 3, or (H, W)")
    first, last = array.shape[0] in (1, 3), array.shape[2] in (1, 3)
    by_habit_last = array.dtype == np.uint8
    return array if last and (by_habit_last or not first) else array.transpose(1, 2, 0)
