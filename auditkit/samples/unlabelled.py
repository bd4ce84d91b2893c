"""One function that opens whatever the user names as images, whether or not they have labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from auditkit.errors import ExecutionError, UsageError
from auditkit.quoting import shortened
from auditkit.samples.archive import load_arrays, texts
from auditkit.samples.base import Dataset
from auditkit.samples.columns import printable
from auditkit.samples.factory import MapDataset, call_factory, is_factory_spec, is_map_dataset, open_map_dataset
from auditkit.samples.files import ImageFile, ImageFiles, is_image_name
from auditkit.samples.folder import visible
from auditkit.samples.memory import open_arrays
from auditkit.samples.open import open_dataset
from auditkit.samples.stream import Streamed, View

__all__ = ["open_images"]

_ACCEPTED = (
    "a folder of images, an .npz file with x, module:factory, file.py:factory, an array of images, or a torch map "
    "data set"
)
_IMAGES = ("x", "images")


def open_images(
    data: object, *, resize: tuple[int, int] | None = None, grey: bool | None = None, skip_bad: bool = False
) -> Dataset:
    """Open images for which nobody needs labels: those of `data` are not looked at, and every label is 0.

    Args:
        data: Whatever `open_dataset` takes, and images alone: a folder with images in it at any depth (other files
            are ignored; an id is the path below the folder), an `.npz` file with `x` or `images` (`ids` is optional),
            an array or tensor of images, or a map data set whose items are images. An open `Dataset` is returned as it
            is.
        resize: As in `open_dataset`.
        grey: As in `open_dataset`.
        skip_bad: As in `open_dataset`.

    Raises:
        UsageError: There is nothing of that name or kind.
        ExecutionError: What is there cannot be used; the message says which file or row, and why.
    """
    view = View(grey, resize, skip_bad)
    if not isinstance(data, str | Path):
        return _open_object(data, view, "arrays in memory")
    name, path = str(data), Path(data)
    try:
        if name and path.is_dir():
            files = tuple(ImageFile(printable(file.relative_to(path).as_posix()), file, 0) for file in _images(path))
            if not files:
                raise ExecutionError(f"{path}: there are no images in it, wanted at least one")
            return Streamed(ImageFiles(files, name, None), view)
        if path.suffix.lower() == ".npz" and path.is_file():
            return _open_archive(path, view)
        if is_factory_spec(name) and not path.exists():
            return _open_object(call_factory(name), view, name)
    except OSError as error:
        raise ExecutionError(f"{shortened(str(error.filename or name))}: cannot be read: {error.strerror}") from error
    # Nothing that can be opened: let it be told in the same words as for labelled images.
    return open_dataset(data)


def _images(folder: Path) -> Iterator[Path]:
    for path in visible(folder):
        if path.is_dir():
            yield from _images(path)
        elif is_image_name(path):
            yield path


def _open_archive(path: Path, view: View) -> Streamed:
    found, stored = load_arrays(path, (*_IMAGES, "ids"))
    present = [name for name in _IMAGES if name in found]
    if len(present) != 1:
        raise ExecutionError(f"{path}: wanted one array called x or images, its arrays are: {stored or 'none'}")
    ids = found.get("ids")
    return _open_array(found[present[0]], view, str(path), None if ids is None else texts(ids, str(path)))


def _open_object(data: object, view: View, source: str) -> Dataset:
    if isinstance(data, Dataset):
        return data
    if isinstance(data, tuple) and len(data) in (2, 3):
        data = data[0]
    if isinstance(data, Tensor | np.ndarray):
        return _open_array(data, view, source)
    if is_map_dataset(data):
        return open_map_dataset(_Unlabelled(data), view, source=source)
    raise UsageError(f"{source}: a {type(data).__name__} is not known as images; wanted {_ACCEPTED}")


def _open_array(images: Tensor | NDArray[Any], view: View, source: str, ids: tuple[str, ...] | None = None) -> Streamed:
    return open_arrays(images, np.zeros(images.shape[:1], dtype=np.int64), view, ids=ids, source=source)


@dataclass(frozen=True, eq=False)
class _Unlabelled:
    """A map data set whose items are images, or tuples that begin with one."""

    images: MapDataset

    @property
    def ids(self) -> Any:
        """Unique names, if the data set has them."""
        return getattr(self.images, "ids", None)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        item = self.images[index]
        return (item[0] if isinstance(item, tuple | list) and item else item), 0
