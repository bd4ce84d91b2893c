"""What every check of maps reports: how concentrated a map is, whether there is one, and a gallery."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_LOGITS,
    Context,
    Exhibit,
    Findings,
    Metric,
    Samples,
    image_panel,
    overlay_panel,
)

__all__ = ["MAP_METRICS", "Gallery", "MapView", "Share", "concentrations", "parts"]

MAP_METRICS = (
    Metric(
        "concentration",
        "concentration",
        "Share of the map in its strongest tenth of the pixels",
        "mean",
        among="responds",
    ),
    Metric("responds", "responds", "Images whose map is not zero everywhere"),
)

Share = Annotated[float, Field(gt=0, le=1)]
Gallery = Annotated[int, Field(ge=0)]


def parts(samples: Samples, ctx: Context) -> Iterator[tuple[Tensor, tuple[str, ...], slice]]:
    """Yield images, ids and places of one batch of the samples after the other, and tell how far that is."""
    for start in range(0, len(samples), ctx.batch):
        ctx.check_time()
        part = slice(start, start + ctx.batch)
        yield samples.images[part], samples.ids[part], part
        ctx.progress(len(samples.ids[part]))


def concentrations(maps: Tensor, share: float) -> npt.NDArray[np.float64]:
    """Return (N,): the share of each map (N, H, W) that lies in its largest pixels; NaN for a map of zeros."""
    # With numpy, which adds up each row by itself in the same order, however many rows there are.
    flat = np.sort(maps.flatten(1).double().cpu().numpy(), axis=1)
    largest = flat[:, -max(1, round(share * flat.shape[1])) :].sum(1)
    total = flat.sum(1)
    shares: npt.NDArray[np.float64] = np.divide(largest, total, out=np.full(len(flat), np.nan), where=total > 0)
    return shares


@dataclass(frozen=True)
class MapView:
    """The maps of the classes that a model takes samples for, and how they are shown."""

    name: str
    """What the map is called in the gallery."""
    samples: Samples
    ctx: Context
    maps: Tensor
    """(N, H, W), not negative."""
    note: str = ""
    """Added to each caption."""

    def findings(self, top: float, gallery: int, passes: tuple[int, int], **columns: npt.NDArray[Any]) -> Findings:
        """Return the columns of `MAP_METRICS` and `columns`, and up to `gallery` exhibits.

        `passes` are the forward and backward passes that each image cost, the clean answer included.
        """
        concentration = concentrations(self.maps, top)
        own: Mapping[str, npt.NDArray[Any]] = {"concentration": concentration, "responds": np.isfinite(concentration)}
        forwards, backwards = (np.full(len(self.samples), count, dtype=np.int64) for count in passes)
        return Findings({**own, **columns}, self._exhibits(gallery), forwards, backwards)

    def _exhibits(self, gallery: int) -> tuple[Exhibit, ...]:
        """Show the most confident mistakes first, then the most confident right answers."""
        samples, ctx = self.samples, self.ctx
        logits = ctx.shelf.get(CLEAN_LOGITS)
        predicted = logits.argmax(1)
        confidence = torch.softmax(logits.double(), 1).amax(1)
        scores = (confidence + (predicted != samples.labels)).tolist()
        ranked = sorted(range(len(samples)), key=lambda row: (-scores[row], samples.ids[row]))
        exhibits = []
        for row in ranked[:gallery]:
            true, taken = ctx.class_name(int(samples.labels[row])), ctx.class_name(int(predicted[row]))
            verdict = f"{true}, recognised" if true == taken else f"{true} is taken for {taken}"
            panels = (
                image_panel(f"image: {true}", samples.images[row]),
                overlay_panel(f"{self.name} for {taken}", samples.images[row], self.maps[row]),
            )
            caption = f"{verdict} with {float(confidence[row]):.1%} confidence{self.note}"
            exhibits.append(Exhibit(samples.ids[row], caption, scores[row], panels))
        return tuple(exhibits)
