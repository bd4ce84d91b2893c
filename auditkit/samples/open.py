"""One function that opens whatever the user names as images with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from auditkit.errors import ExecutionError, UsageError, did_you_mean
from auditkit.quoting import shortened
from auditkit.samples.arrays import open_npz
from auditkit.samples.base import Dataset
from auditkit.samples.coco_boxes import open_boxes
from auditkit.samples.columns import printable
from auditkit.samples.factory import call_factory, is_factory_spec, is_map_dataset, open_map_dataset
from auditkit.samples.files import is_image_name
from auditkit.samples.folder import open_folder, visible
from auditkit.samples.masks import open_masks
from auditkit.samples.memory import open_arrays
from auditkit.samples.stream import Streamed, View
from auditkit.samples.table import open_table

__all__ = ["open_dataset"]

_ACCEPTED = (
    "a folder with a sub-folder for each class, a folder with labels.csv, an .npz file, module:factory, "
    "file.py:factory, (images, labels), (images, labels, masks), or a torch map data set"
)
_TABLE = "labels.csv"


def open_dataset(
    data: object,
    *,
    labels_csv: Path | None = None,
    masks: Path | None = None,
    boxes: Path | None = None,
    resize: tuple[int, int] | None = None,
    grey: bool | None = None,
    skip_bad: bool = False,
    limit: int | None = None,
    class_names: Sequence[str] | None = None,
) -> Dataset:
    """Open labelled images.

    Args:
        data: A folder with a sub-folder of images for each class; a folder of images with `labels.csv` in it
            (which goes before sub-folders) or with `labels_csv`; an `.npz` file; `module:factory` or
            `file.py:factory`, which returns anything listed here but text; a tuple (images, labels) or
            (images, labels, masks); a torch map data set; or an open `Dataset`, which takes no further options.
        labels_csv: CSV file with the columns `file` and `label`, for the images in the folder `data`.
        masks: Where the objects are, instead of what the data say: a folder of pictures, a COCO `.json` or an
            `.npz`, see `masks.open_masks`.
        boxes: COCO `.json` that lists the images of the folder `data` and the boxes of their objects, see
            `coco_boxes.open_boxes`: the data set of a detector.
        resize: Height and width of all images (bilinear, smoothed where it shrinks).
        grey: True for one channel, False for RGB, None to go by the first image: a grey one (Pillow modes
            1, L, LA, I, I;16 or F) makes the data set grey, and then a coloured image is an error.
        skip_bad: Leave out images that cannot be read, and report each of them in `Read.skipped`.
        limit: How many images to use: of image files a choice by the sha256 of their ids, which mixes the
            classes; of arrays and map data sets the first.
        class_names: Names of the classes by index, instead of those that the data name.

    Raises:
        UsageError: There is nothing of that name or kind, or an option does not go with it.
        ExecutionError: What is there cannot be used; the message says which file or row, and why.
    """
    _check_options(resize, limit, class_names)
    if boxes is not None:
        return _open_boxed(data, boxes, labels_csv, masks, View(grey, resize, skip_bad), limit, class_names)
    request = _Request(labels_csv, masks, View(grey, resize, skip_bad), limit, class_names)
    if isinstance(data, str | Path):
        opened = _open_reachable(str(data), request)
    else:
        opened = _open_object(data, request, source=type(data).__qualname__)
    if masks is None or not isinstance(opened, Streamed):
        return opened
    return opened.through(lambda rows: open_masks(masks, rows))


def _open_boxed(
    data: object,
    boxes: Path,
    labels_csv: Path | None,
    masks: Path | None,
    view: View,
    limit: int | None,
    class_names: Sequence[str] | None,
) -> Dataset:
    for given, option in ((labels_csv, "--labels"), (masks, "--masks")):
        if given is not None:
            raise UsageError(f"{option} goes with the images of a classifier, --boxes with those of a detector")
    if not isinstance(data, str | Path):
        raise UsageError(f"--boxes goes with a folder of images; got a {type(data).__qualname__}")
    try:
        return open_boxes(Path(data), boxes, view, limit, class_names)
    except OSError as error:
        raise ExecutionError(f"{shortened(str(error.filename or data))}: cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class _Request:
    labels_csv: Path | None
    masks: Path | None
    view: View
    limit: int | None
    class_names: Sequence[str] | None

    @property
    def is_plain(self) -> bool:
        return self == _Request(None, None, View(), None, None)


def _check_options(resize: tuple[int, int] | None, limit: int | None, class_names: Sequence[str] | None) -> None:
    if resize is not None and (len(resize) != 2 or min(resize) < 1):
        raise UsageError(f"resize: wanted a height and a width of at least 1, got {resize}")
    if limit is not None and limit < 1:
        raise UsageError(f"limit: wanted at least 1 image, got {limit}")
    if class_names is not None and (isinstance(class_names, str) or len(set(class_names)) < len(class_names)):
        raise UsageError(f"class names: wanted a list of different names, got {class_names!r}")


def _open_reachable(name: str, request: _Request) -> Dataset:
    try:
        return _open_named(name, request)
    except OSError as error:
        raise ExecutionError(f"{shortened(str(error.filename or name))}: cannot be read: {error.strerror}") from error


def _open_named(name: str, request: _Request) -> Dataset:
    if not name:
        raise UsageError(f"an empty text names no data set; wanted {_ACCEPTED}")
    path = Path(name)
    if path.is_dir():
        return _open_directory(path, request)
    if request.labels_csv is not None:
        raise UsageError(f"{name}: a table of labels goes with a folder of images, and this is none")
    if path.suffix.lower() == ".npz" and path.is_file():
        return open_npz(path, request.view, request.limit, request.class_names)
    if path.exists():
        raise UsageError(f"{name}: this file is not known as a data set; wanted {_ACCEPTED}")
    if is_factory_spec(name):
        return _open_object(call_factory(name), request, source=name)
    siblings = [sibling.name for sibling in visible(path.parent)] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, siblings)
    raise UsageError(f"{printable(name)}: there is no such file or folder{hint or f'; wanted {_ACCEPTED}'}")


def _open_directory(folder: Path, request: _Request) -> Dataset:
    table = request.labels_csv or folder / _TABLE
    if table.is_file():
        return open_table(folder, table, request.view, request.limit, request.class_names)
    if request.labels_csv is not None:
        raise UsageError(f"{table}: there is no such file, wanted a CSV file with the columns file and label")
    content = visible(folder)
    if any(map(is_image_name, content)) and not any(path.is_dir() for path in content):
        remedy = f"add a {_TABLE} with the columns file and label, or move each image into a folder of its class"
        raise UsageError(f"{folder}: these images have no labels; {remedy}")
    return open_folder(folder, request.view, request.limit, request.class_names)


def _open_object(data: object, request: _Request, source: str) -> Dataset:
    if request.labels_csv is not None:
        raise UsageError(f"{source}: a table of labels goes with a folder of images, and this is none")
    if isinstance(data, Dataset):
        if not request.is_plain:
            raise UsageError(f"{source}: this data set is open already; give the options where it is opened")
        return data
    if isinstance(data, tuple) and len(data) in (2, 3):
        images, labels, *masks = data
        return open_arrays(
            images,
            labels,
            request.view,
            limit=request.limit,
            class_names=request.class_names,
            masks=masks[0] if masks else None,
            source="arrays in memory" if source == "tuple" else source,
        )
    if is_map_dataset(data):
        return open_map_dataset(data, request.view, source=source, limit=request.limit, class_names=request.class_names)
    raise UsageError(f"{source}: a {type(data).__name__} is not known as a data set; wanted {_ACCEPTED}")
