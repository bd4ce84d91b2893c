"""A data set in random order, so that its first images are a fair draw of all."""

from __future__ import annotations

import numpy as np

from auditkit.samples.base import Dataset, Read, join_samples

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
        reads = [self._dataset.read(place, place + 1) for place in self._order[start:stop]]
        if not reads:
            return self._dataset.read(0, 0)
        return Read(
            join_samples([read.samples for read in reads]), tuple(bad for read in reads for bad in read.skipped)
        )
