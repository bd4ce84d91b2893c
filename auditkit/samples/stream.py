"""The data set that every reader ends in: rows from a source, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from auditkit.errors import ExecutionError
from auditkit.samples.base import Read, Samples, Skipped
from auditkit.samples.objects import Objects
from auditkit.samples.pixels import BadImage, Mask, Pixels, fit, fit_mask

__all__ = ["Row", "RowSource", "Streamed", "View"]


@dataclass(frozen=True, eq=False)
class Row:
    """One labelled image as its source gives it.

    Attributes:
        pixels: (H, W, C), C = 1 or 3, uint8 or float32 in [0, 1].
        label: Class index, from 0.
        mask: bool (H, W), true on the object; None where the source has no masks.
        objects: What is annotated in the image; None where the source is one for classifiers.
    """

    pixels: Pixels
    label: int
    mask: Mask | None = None
    objects: Objects | None = None


class RowSource(Protocol):
    """Where rows come from; all that a new reader has to provide."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, by index; None where they are not known."""

    @property
    def source(self) -> str:
        """What the user named."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def row_id(self, index: int) -> str:
        """Return the stable name of a row, without reading it."""

    def load(self, index: int) -> Row:
        """Read one row; raises `BadImage` for an image that can be skipped."""


@dataclass(frozen=True)
class View:
    """How images are to be delivered.

    Attributes:
        grey: True for one channel, False for RGB, None to go by the first image.
        resize: Height and width; None where the images have one size already.
        skip_bad: Leave out images that cannot be read, and report them.
    """

    grey: bool | None = None
    resize: tuple[int, int] | None = None
    skip_bad: bool = False


@dataclass(frozen=True)
class _Frame:
    """What the first readable image settles for all others."""

    row_id: str
    channels: int
    height: int
    width: int
    masked: bool
    annotated: bool


class Streamed:
    """A data set over the rows of a source, all delivered with one size and number of channels.

    The first readable row is decoded at once: it settles size and channels for every later read, whatever
    the range, so that reading in parts gives what reading at once gives.

    Args:
        rows: Where the rows come from.
        view: How the images are to be delivered.
        limit: How many rows to use, from the first.

    Raises:
        ExecutionError: There are no rows, or the first is bad (with `skip_bad`: all are).
    """

    def __init__(self, rows: RowSource, view: View, limit: int | None = None) -> None:
        self._rows = rows
        self._view = view
        self._count = len(rows) if limit is None else min(limit, len(rows))
        self._frame = self._first_frame()

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, by index; None where they are not known."""
        return self._rows.class_names

    @property
    def source(self) -> str:
        """What the user named, for the report."""
        return self._rows.source

    def __len__(self) -> int:
        return self._count

    def ids_between(self, start: int, stop: int) -> tuple[str, ...]:
        """Return the ids of the images at positions [start, stop), those that cannot be read included."""
        return tuple(self._rows.row_id(index) for index in range(start, stop))

    def through(self, wrap: Callable[[RowSource], RowSource]) -> Streamed:
        """Return the same data set over its rows as `wrap` makes them; it may change neither their number nor order."""
        return Streamed(wrap(self._rows), self._view, self._count)

    def read(self, start: int, stop: int) -> Read:
        """Decode the images at positions [start, stop), and no others.

        Raises:
            ValueError: The range does not lie in the data set.
            ExecutionError: An image is bad (without `skip_bad`), or of another size or kind than the first.
        """
        if not 0 <= start <= stop <= len(self):
            raise ValueError(f"cannot read [{start}, {stop}) of {len(self)} samples")
        height, width = self._view.resize or (self._frame.height, self._frame.width)
        images = np.empty((stop - start, self._frame.channels, height, width), dtype=np.float32)
        masks = np.empty((stop - start, height, width), dtype=np.bool_) if self._frame.masked else None
        labels: list[int] = []
        ids: list[str] = []
        skipped: list[Skipped] = []
        objects: list[Objects] = []
        for index in range(start, stop):
            row = self._load(index)
            if isinstance(row, Skipped):
                skipped.append(row)
                continue
            images[len(ids)] = self._fitted(index, row)
            if masks is not None and row.mask is not None:
                masks[len(ids)] = fit_mask(row.mask, self._view.resize)
            if row.objects is not None:
                objects.append(row.objects)
            labels.append(row.label)
            ids.append(self._rows.row_id(index))
        return Read(_samples(images, labels, ids, masks, objects if self._frame.annotated else None), tuple(skipped))

    def _first_frame(self) -> _Frame:
        first_reason: Skipped | None = None
        for index in range(len(self)):
            row = self._load(index)
            if isinstance(row, Skipped):
                first_reason = first_reason or row
                continue
            height, width, channels = row.pixels.shape
            grey = channels == 1 if self._view.grey is None else self._view.grey
            row_id = self._rows.row_id(index)
            channels = 1 if grey else 3
            return _Frame(row_id, channels, height, width, row.mask is not None, row.objects is not None)
        if first_reason is None:
            raise ExecutionError(f"{self.source}: there are no samples in it, wanted at least one")
        told = f"the first, {first_reason.id}, {first_reason.reason}"
        raise ExecutionError(f"{self.source}: none of {len(self)} images can be used; {told}")

    def _load(self, index: int) -> Row | Skipped:
        try:
            return self._rows.load(index)
        except BadImage as error:
            name = self._rows.row_id(index)
            if self._view.skip_bad:
                return Skipped(name, str(error))
            told = f"{self.source}: {name} {error}"
            raise ExecutionError(f"{told} (--skip-bad leaves such images out)") from error

    def _fitted(self, index: int, row: Row) -> NDArray[np.float32]:
        frame, name = self._frame, self._rows.row_id(index)
        height, width, channels = row.pixels.shape
        if self._view.resize is None and (height, width) != (frame.height, frame.width):
            sizes = f"{name} is {height}x{width}, but {frame.row_id} is {frame.height}x{frame.width}"
            raise ExecutionError(f"{self.source}: {sizes} (height x width); --resize HxW makes them one size")
        if self._view.grey is None and channels > frame.channels:
            kinds = f"{name} is in colour, but {frame.row_id}, the first, is grey"
            raise ExecutionError(f"{self.source}: {kinds}; say grey=False for RGB or grey=True for grey")
        return fit(row.pixels, frame.channels, self._view.resize)


def _samples(
    images: NDArray[np.float32],
    labels: list[int],
    ids: list[str],
    masks: NDArray[np.bool_] | None,
    objects: list[Objects] | None,
) -> Samples:
    count = len(ids)
    return Samples(
        torch.from_numpy(images[:count]),
        torch.tensor(labels, dtype=torch.int64),
        tuple(ids),
        None if masks is None else torch.from_numpy(masks[:count]),
        None if objects is None else tuple(objects),
    )
