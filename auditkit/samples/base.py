"""Labelled images: one shard in memory, and the data sets that shards are read from."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from auditkit.errors import ExecutionError
from auditkit.samples.objects import Objects

__all__ = [
    "Dataset",
    "NamedDataset",
    "Read",
    "Samples",
    "Skipped",
    "fingerprint",
    "gather_samples",
    "join_samples",
]


@dataclass(frozen=True, eq=False)
class Samples:
    """One shard of labelled images, in memory.

    Attributes:
        images: float32 (N, C, H, W), C = 3 (RGB) or 1 (grey), every value in [0, 1].
        labels: int64 (N,), class indices from 0.
        ids: N unique, stable names.
        masks: bool (N, H, W), true on the object, false everywhere in an image of which nobody said where it is;
            None where the data set has no masks.
        objects: What is annotated in each image, N entries; None where the data set is one for classifiers.

    Raises:
        ExecutionError: A shape, dtype, length, value, label or id is not as stated.
    """

    images: Tensor
    labels: Tensor
    ids: tuple[str, ...]
    masks: Tensor | None = None
    objects: tuple[Objects, ...] | None = None

    def __post_init__(self) -> None:
        self._check_images()
        self._check_labels()
        self._check_ids()
        self._check_masks()
        if self.objects is not None and len(self.objects) != len(self.images):
            raise ExecutionError(f"objects: {len(self.objects)} entries for {len(self.images)} images")

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Samples:
        """Return the same samples with all tensors on `device`."""
        masks = None if self.masks is None else self.masks.to(device)
        objects = None if self.objects is None else tuple(each.to(device) for each in self.objects)
        return Samples(self.images.to(device), self.labels.to(device), self.ids, masks, objects)

    def take(self, index: Tensor | Sequence[int]) -> Samples:
        """Return the samples at the given positions, in the given order; these themselves if that is all as they are.

        Args:
            index: Positions in [-N, N), each at most once; or a bool tensor (N,) that is true where wanted.

        Raises:
            ExecutionError: A position is out of range or given twice.
        """
        rows = self._positions(index)
        if rows and not -len(self) <= min(rows) <= max(rows) < len(self):
            raise ExecutionError(f"positions {min(rows)} to {max(rows)} asked of {len(self)} samples")
        if rows == list(range(len(self))):
            return self
        ids = tuple(self.ids[row] for row in rows)
        at = torch.tensor(rows, dtype=torch.int64, device=self.images.device)
        masks = None if self.masks is None else self.masks[at.to(self.masks.device)]
        objects = None if self.objects is None else tuple(self.objects[row] for row in rows)
        return Samples(self.images[at], self.labels[at.to(self.labels.device)], ids, masks, objects)

    def shifted(self, offset: int) -> Samples:
        """Return the same samples with `offset` added to every label and class."""
        objects = None if self.objects is None else tuple(each.shifted(offset) for each in self.objects)
        return Samples(self.images, self.labels + offset, self.ids, self.masks, objects)

    def digests(self) -> tuple[str, ...]:
        """Return one sha256 (hex) a sample, over its id, label, shape, pixels, and mask and objects (if any)."""
        images = self.images.detach().cpu().contiguous()
        masks = None if self.masks is None else self.masks.cpu().contiguous()
        shape = "x".join(str(length) for length in images.shape[1:])
        return tuple(
            _digest(
                name,
                label,
                shape,
                images[row],
                None if masks is None else masks[row],
                None if self.objects is None else self.objects[row],
            )
            for row, (name, label) in enumerate(zip(self.ids, self.labels.tolist(), strict=True))
        )

    def _positions(self, index: Tensor | Sequence[int]) -> list[int]:
        if not isinstance(index, Tensor):
            return [int(row) for row in index]
        if index.dtype != torch.bool:
            return [int(row) for row in index.tolist()]
        if index.shape != (len(self),):
            raise ExecutionError(f"a mask of shape {tuple(index.shape)} cannot choose from {len(self)} samples")
        return [int(row) for row in index.nonzero()[:, 0].tolist()]

    def _check_images(self) -> None:
        images = self.images
        if images.dtype != torch.float32 or images.ndim != 4 or images.shape[1] not in (1, 3):
            got = f"{images.dtype} {tuple(images.shape)}"
            raise ExecutionError(f"images: wanted float32 (N, C, H, W) with C = 1 or 3, got {got}")
        if images.numel() == 0:
            if len(images):
                raise ExecutionError(f"images: {len(images)} images of {tuple(images.shape[1:])} have no pixels")
            return
        low, high = (float(bound) for bound in images.detach().aminmax())
        if not (low >= 0.0 and high <= 1.0):
            raise ExecutionError(f"images: values run from {low:.6g} to {high:.6g}, wanted finite and in [0, 1]")

    def _check_labels(self) -> None:
        labels = self.labels
        if labels.dtype != torch.int64 or labels.shape != (len(self.images),):
            got = f"{labels.dtype} {tuple(labels.shape)}"
            raise ExecutionError(f"labels: wanted int64 ({len(self.images)},), one an image, got {got}")
        if len(labels) and int(labels.min()) < 0:
            row = int(labels.argmin())
            raise ExecutionError(f"labels: label {int(labels[row])} at position {row} is negative")

    def _check_ids(self) -> None:
        if len(self.ids) != len(self.images):
            raise ExecutionError(f"ids: {len(self.ids)} ids for {len(self.images)} images")
        seen: set[str] = set()
        for name in self.ids:
            if name in seen:
                raise ExecutionError(f"ids: {name!r} occurs twice")
            seen.add(name)

    def _check_masks(self) -> None:
        masks = self.masks
        if masks is None:
            return
        wanted = (len(self.images), *self.images.shape[2:])
        if masks.dtype != torch.bool or masks.shape != wanted:
            raise ExecutionError(f"masks: wanted bool {wanted}, got {masks.dtype} {tuple(masks.shape)}")


@dataclass(frozen=True)
class Skipped:
    """An image that was asked for and could not be read.

    Attributes:
        id: Its name in the data set.
        reason: What is wrong with it, in one line.
    """

    id: str
    reason: str


@dataclass(frozen=True)
class Read:
    """What reading a range of a data set gave: samples and skipped images, together as many as asked for.

    Attributes:
        samples: The images that could be read, in the order of the data set.
        skipped: The others; always empty unless the data set was opened with `skip_bad`.
    """

    samples: Samples
    skipped: tuple[Skipped, ...] = ()


@runtime_checkable
class Dataset(Protocol):
    """Labelled images of one size that are decoded when they are read, and not kept."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, by index; None where they are not known."""

    @property
    def source(self) -> str:
        """What the user named, for the report."""

    def __len__(self) -> int:
        """Return the number of images, those that cannot be read included."""

    def read(self, start: int, stop: int) -> Read:
        """Decode the images at positions [start, stop), and no others."""


@runtime_checkable
class NamedDataset(Dataset, Protocol):
    """A data set that can name its images without decoding them; any that can had better be one."""

    def ids_between(self, start: int, stop: int) -> tuple[str, ...]:
        """Return the ids of the images at positions [start, stop), those that cannot be read included."""


def join_samples(parts: Sequence[Samples]) -> Samples:
    """Return several parts as one; without masks (or objects) if one of them has none."""
    return gather_samples(parts, sum(len(part) for part in parts))


def gather_samples(parts: Iterable[Samples], most: int) -> Samples:
    """Return at least one part as `join_samples` does, each taken as it comes: no two need to be in memory.

    `most` is the number of samples that they have together at most.

    Raises:
        ExecutionError: their images are not of one size.
    """
    coming = iter(parts)
    first = next(coming)
    images, labels = first.images.new_empty((most, *first.images.shape[1:])), first.labels.new_empty(most)
    masks = None if first.masks is None else first.masks.new_empty((most, *first.masks.shape[1:]))
    objects: list[Objects] | None = None if first.objects is None else []
    ids: list[str] = []
    for part in itertools.chain([first], coming):
        if part.images.shape[1:] != images.shape[1:]:
            sizes = f"{tuple(part.images.shape[1:])} beside {tuple(images.shape[1:])}"
            raise ExecutionError(f"images: wanted one size, got {sizes} (channels, height, width)")
        rows = slice(len(ids), len(ids) + len(part))
        images[rows], labels[rows] = part.images, part.labels
        if masks is None or part.masks is None:
            masks = None
        else:
            masks[rows] = part.masks
        objects = None if objects is None or part.objects is None else [*objects, *part.objects]
        ids += part.ids
    n = len(ids)
    return Samples(
        images[:n],
        labels[:n],
        tuple(ids),
        None if masks is None else masks[:n],
        None if objects is None else tuple(objects),
    )


def fingerprint(digests: Iterable[str]) -> str:
    """Return the sha256 (hex) of a data set, over the digests of its samples in order."""
    total = hashlib.sha256()
    for digest in digests:
        total.update(f"{digest}\n".encode())
    return total.hexdigest()


def _digest(name: str, label: int, shape: str, image: Tensor, mask: Tensor | None, objects: Objects | None) -> str:
    encoded = name.encode("utf-8", "surrogateescape")
    # The length of the id is part of the text, so no two different samples can spell the same bytes.
    digest = hashlib.sha256(f"{len(encoded)}:".encode() + encoded)
    digest.update(f"|{label}|{shape}|{'plain' if mask is None else 'masked'}|".encode())
    digest.update(image.numpy().astype("<f4", copy=False).tobytes())
    if mask is not None:
        digest.update(mask.numpy().tobytes())
    if objects is not None:
        digest.update(objects.digest_bytes())
    return digest.hexdigest()
