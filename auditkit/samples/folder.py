"""A folder with one sub-folder of images a class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from auditkit.errors import ExecutionError, UsageError, did_you_mean
from auditkit.samples.columns import printable
from auditkit.samples.files import ImageFile, ImageFiles, choose, is_image_name
from auditkit.samples.stream import Streamed, View

__all__ = ["open_folder", "visible"]


def open_folder(root: Path, view: View, limit: int | None = None, class_names: Sequence[str] | None = None) -> Streamed:
    """Open a folder of class folders.

    The class index is the position of the sub-folder's name in `class_names`, or else in sorted order
    (as text: `10` comes before `2`). An id is the path below the root, with forward slashes. Hidden files
    are ignored. With `view.skip_bad`, files that are no images are reported as skipped when they are read,
    and a class folder may be empty. `limit` chooses files over all classes, see `files.choose`.

    Raises:
        UsageError: A sub-folder is not among `class_names`.
        ExecutionError: Unreadable or empty folder, empty class folder, a file that is no image, a folder in a
            class folder, an image beside the class folders.
    """
    folders = [path for path in visible(root) if path.is_dir()]
    strays = [path for path in visible(root) if not path.is_dir() and is_image_name(path)]
    if strays:
        raise ExecutionError(f"{root}: {printable(strays[0].name)} lies beside the class folders, so it has no class")
    names = tuple(folder.name for folder in folders) if class_names is None else tuple(class_names)
    files = [file for folder in folders for file in _class_files(root, folder, names, view.skip_bad)]
    if not files:
        raise ExecutionError(f"{root}: there are no images in it, wanted a sub-folder of images for each class")
    return Streamed(ImageFiles(choose(files, limit), str(root), names), view)


def visible(folder: Path) -> list[Path]:
    """Return what lies in a folder, hidden files left out, sorted by name.

    Raises:
        ExecutionError: The folder cannot be listed.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ExecutionError(f"{folder}: cannot be listed: {error.strerror}") from error


def _class_files(root: Path, folder: Path, names: tuple[str, ...], skip_bad: bool) -> Iterator[ImageFile]:
    if folder.name not in names:
        hint = did_you_mean(folder.name, names)
        raise UsageError(f"{root}: folder {folder.name!r} is not among the {len(names)} class names{hint}")
    label = names.index(folder.name)
    paths = visible(folder)
    if not paths and not skip_bad:
        raise ExecutionError(f"{folder}: there are no images in this class folder, wanted at least one")
    for path in paths:
        if path.is_dir():
            remedy = "name the folder whose sub-folders are the classes"
            raise ExecutionError(f"{printable(str(path))}: is a folder in a class folder, wanted an image; {remedy}")
        if not skip_bad and not is_image_name(path):
            raise ExecutionError(f"{printable(str(path))}: is not named like an image (--skip-bad leaves it out)")
        yield ImageFile(printable(path.relative_to(root).as_posix()), path, label)
