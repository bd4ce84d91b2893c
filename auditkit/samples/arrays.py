"""Images and labels in a numpy `.npz` file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from auditkit.errors import ExecutionError
from auditkit.samples.archive import load_arrays, texts
from auditkit.samples.memory import open_arrays
from auditkit.samples.stream import Streamed, View

__all__ = ["open_npz"]

_IMAGES = ("x", "images")
_LABELS = ("y", "labels")
_NAMES = ("names", "class_names")
_USED = (*_IMAGES, *_LABELS, *_NAMES, "ids", "masks")


def open_npz(path: Path, view: View, limit: int | None = None, class_names: Sequence[str] | None = None) -> Streamed:
    """Open an archive with the arrays `x` or `images` and `y` or `labels`.

    Optional: `names` or `class_names` (K,), `ids` (N,), `masks` (N, H, W). Shapes and types are those of
    `memory.open_arrays`. Arrays in an archive cannot be memory-mapped, so the stored array (of bytes, as a
    rule) is kept whole in memory; the four times larger floats exist only for the rows being read. Pickled
    objects are never loaded. `limit` takes the first rows.

    Raises:
        ExecutionError: Unreadable archive, missing, doubled or pickled arrays, or arrays not as stated.
    """
    source = str(path)
    found, stored = load_arrays(path, _USED)
    images, labels, names = (_one_of(found, accepted, source) for accepted in (_IMAGES, _LABELS, _NAMES))
    if images is None or labels is None:
        wanted = " or ".join(_IMAGES if images is None else _LABELS)
        raise ExecutionError(f"{source}: wanted an array called {wanted}, its arrays are: {stored or 'none'}")
    if class_names is None and names is not None:
        class_names = texts(names, source)
    ids = found.get("ids")
    return open_arrays(
        images,
        labels,
        view,
        limit=limit,
        class_names=class_names,
        ids=None if ids is None else texts(ids, source),
        masks=found.get("masks"),
        source=source,
    )


def _one_of(found: dict[str, NDArray[Any]], accepted: tuple[str, ...], source: str) -> NDArray[Any] | None:
    present = [key for key in accepted if key in found]
    if len(present) > 1:
        raise ExecutionError(f"{source}: holds both {' and '.join(present)}, wanted one of them")
    return found[present[0]] if present else None
