"""The attacked images that earlier checks found, for checks that look at them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from auditkit import Finished, Samples, from_16bit

__all__ = ["FAMILIES", "Pictures", "attacked_images", "family_of", "mean_of_rows"]

FAMILIES: Mapping[str, str] = {
    "noise": "Low-amplitude noise",
    "pixel": "Changes of a few pixels",
    "patch": "Stickers and patches",
}
"""The families of attacks, by the first part of the check's id."""


def family_of(finished: Finished) -> str:
    """Return the first part of the check's id."""
    return finished.check.spec.id.partition(".")[0]


@dataclass(frozen=True)
class Pictures:
    """M images that belong to samples, of which a sample may have none, one or several."""

    images: Tensor
    """float32 (M, C, H, W) in [0, 1]."""
    rows: Tensor
    """int64 (M,): the numbers of their samples."""
    source: Tensor
    """int64 (M,): the number of the check that attacked them; -1 for clean images."""

    def take(self, keep: Tensor) -> Pictures:
        """Return those that are true in `keep`, bool (M,)."""
        return Pictures(self.images[keep], self.rows[keep], self.source[keep])


def attacked_images(checks: Sequence[Finished], samples: Samples) -> Pictures:
    """Return the attacked images that fooled, within the budget, the model that saw them with all their digits.

    They are as they were stored, in 16 bits a channel; to all those of a check follow those of the next.
    """
    images, rows, source = [samples.images[:0]], [samples.labels[:0]], [samples.labels[:0]]
    for number, finished in enumerate(checks):
        if finished.attacked is None:
            continue
        found = finished.columns["found"].astype(bool)
        counts = finished.columns.get("fooled", found).astype(bool)[found]
        at = torch.from_numpy(found.nonzero()[0][counts]).to(samples.labels.device)
        images.append(from_16bit(finished.attacked[counts], samples.images.device))
        rows.append(at)
        source.append(torch.full_like(at, number))
    return Pictures(torch.cat(images), torch.cat(rows), torch.cat(source))


def mean_of_rows(values: npt.NDArray[Any], rows: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.float64]:
    """Return float64 (n,): the mean of the values (M,) that belong to each of n samples, NaN where there is none."""
    count = np.bincount(rows, minlength=n)
    total = np.bincount(rows, weights=values, minlength=n)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
