"""A data set in random order, so that its first images are a fair draw of all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from auditkit.samples.base import Dataset, NamedDataset, Read, Samples, Skipped, gather_samples

__all__ = ["Shuffled"]


class Shuffled:
    """A data set whose images come in an order that the seed alone decides."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self._dataset = dataset
        self._order = np.random.default_rng(seed).permutation(len(dataset)).tolist()

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, by index; None where they are not known."""
        return self._dataset.class_names

    @property
    def source(self) -> str:
        """What the user named, for the report."""
        return self._dataset.source

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, start: int, stop: int) -> Read:
        """Decode the images at positions [start, stop) of the new order, and no others."""
        places = self._order[start:stop]
        if not places:
            return self._dataset.read(0, 0)
        skipped: list[Skipped] = []
        samples = gather_samples(self._one_by_one(places, skipped), len(places))
        return Read(samples, tuple(skipped))

    def ids_between(self, start: int, stop: int) -> tuple[str, ...]:
        """Return the ids of the images at positions [start, stop) of the new order.

        A data set that cannot name its images is read for them, one image after the other.
        """
        return tuple(self._id_at(place) for place in self._order[start:stop])

    def _one_by_one(self, places: Sequence[int], skipped: list[Skipped]) -> Iterator[Samples]:
        for place in places:
            read = self._dataset.read(place, place + 1)
            skipped += read.skipped
            yield read.samples

    def _id_at(self, place: int) -> str:
        if isinstance(self._dataset, NamedDataset):
            return self._dataset.ids_between(place, place + 1)[0]
        read = self._dataset.read(place, place + 1)
        return (*read.samples.ids, *(bad.id for bad in read.skipped))[0]
