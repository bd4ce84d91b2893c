"""The loudest images: where in them, and at which unit of which layer, they are loud."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from auditkit import (
    ActivationSite,
    ActivationStatistics,
    Context,
    Exhibit,
    Model,
    Panel,
    Samples,
    image_panel,
    overlay_panel,
    tap_activations,
)
from auditkit_plugins.activation_columns import Attacked, relative
from auditkit_plugins.attacked_images import Pictures

__all__ = ["Gallery", "Loudest", "loudest"]


@dataclass(frozen=True)
class Loudest:
    """The largest magnitude of one image at one site."""

    site: ActivationSite
    unit: int
    place: tuple[int, ...]
    """The position in the layer: row and column, or the number of a token; empty where a unit has one value."""
    heat: Tensor | None
    """(H, W): the largest magnitude of all units at each position; None where positions are no rows and columns."""

    @property
    def words(self) -> str:
        """The layer, the unit and the position."""
        sizes = [size for axis, size in enumerate(self.site.shape) if axis != self.site.channel_axis]
        there = ", ".join(f"{at} of {size}" for at, size in zip(self.place, sizes, strict=True))
        return f"{self.site.name}, unit {self.unit}{f' at {there}' if there else ''}"

    def panel(self, title: str, image: Tensor) -> Panel:
        """Return an image (C, H, W) with the magnitudes of the layer laid over it, if they have rows and columns."""
        if self.heat is None:
            return image_panel(title, image)
        size = (int(image.shape[1]), int(image.shape[2]))
        return overlay_panel(title, image, torch.nn.functional.interpolate(self.heat[None, None], size)[0, 0])


def loudest(model: Model, images: Tensor, numbers: Sequence[int]) -> list[Loudest]:
    """Return for each image (N, C, H, W) where it is loudest at the site of its own number."""
    assert model.watched is not None  # noqa: S101 (who asks has sites)
    found: dict[int, Loudest] = {}
    seen = [0] * len(model.sites)

    def tap(number: int, activations: Tensor, rows: int) -> None:
        for row in range(rows):
            if numbers[seen[number] + row] == number:
                found[seen[number] + row] = _loudest(model.sites[number], activations[row])
        seen[number] += rows

    tap_activations(model.watched, model.sites, images, tap)
    return [found[row] for row in range(len(images))]


def _loudest(site: ActivationSite, activations: Tensor) -> Loudest:
    magnitudes = torch.nan_to_num(activations.abs().float(), 0.0, 0.0)
    if not site.shape:
        return Loudest(site, 0, (), None)
    by_unit = magnitudes.movedim(site.channel_axis, 0)
    unit, *place = (int(index) for index in torch.unravel_index(by_unit.argmax(), by_unit.shape))
    return Loudest(site, unit, tuple(place), by_unit.amax(0) if by_unit.dim() == 3 else None)


@dataclass(frozen=True)
class Gallery:
    """The loudest images of a shard, at most `count` of a kind."""

    model: Model
    samples: Samples
    ctx: Context
    typical: npt.NDArray[np.float64]
    """(S,): the typical largest magnitude of each site."""
    count: int

    def clean(self, statistics: ActivationStatistics) -> list[Exhibit]:
        """Return the loudest clean images."""
        loudness = relative(statistics, self.typical)
        rows = self._first(loudness, list(self.samples.ids))
        if not rows:
            return []
        places = loudest(self.model, self.samples.images[rows], [int(loudness[row].argmax()) for row in rows])
        exhibits = []
        for row, place in zip(rows, places, strict=True):
            image, score = self.samples.images[row], float(loudness[row].max())
            name = self.ctx.class_name(int(self.samples.labels[row]))
            caption = f"{name}: {score:.3g} times the usual largest activation of {place.words}"
            panels = (image_panel(f"clean: {name}", image), place.panel(f"activations of {place.site.name}", image))
            exhibits.append(Exhibit(self.samples.ids[row], caption, score, panels))
        return exhibits

    def attacked(
        self,
        pictures: Pictures,
        controls: Tensor,
        keys: Sequence[str],
        clean: ActivationStatistics,
        attacked: Attacked,
    ) -> list[Exhibit]:
        """Return the loudest attacked images, beside the clean ones and their controls at the same layer."""
        loudness = relative(attacked.statistics, self.typical)
        names = [
            f"{self.samples.ids[row]}\0{keys[source]}"
            for row, source in zip(attacked.rows, pictures.source.tolist(), strict=True)
        ]
        chosen = self._first(loudness, names)
        if not chosen:
            return []
        rows, sites = attacked.rows[chosen], loudness[chosen].argmax(1)
        images = (self.samples.images[torch.from_numpy(rows)], pictures.images[chosen], controls[chosen])
        before = relative(clean, self.typical)[rows, sites]
        moved = relative(attacked.control, self.typical)[chosen, sites]
        places = [loudest(self.model, part, sites.tolist()) for part in images]
        exhibits = []
        for at, number in enumerate(chosen):
            row, score = int(rows[at]), float(loudness[number].max())
            name = self.ctx.class_name(int(self.samples.labels[row]))
            caption = (
                f"{keys[int(pictures.source[number])]} on {name}: {score:.3g} times the usual largest activation of "
                f"{places[1][at].words}; the clean image {before[at]:.3g}, the perturbation moved {moved[at]:.3g} times"
            )
            titles = ("clean", "attacked", "perturbation moved")
            panels = tuple(
                place[at].panel(f"{title}: {place[at].site.name}", image[at])
                for title, place, image in zip(titles, places, images, strict=True)
            )
            exhibits.append(Exhibit(self.samples.ids[row], caption, score, panels))
        return exhibits

    def _first(self, loudness: npt.NDArray[np.float64], names: Sequence[str]) -> list[int]:
        """Return the numbers of the loudest images, the loudest first; names settle ties."""
        most = loudness.max(1)
        return sorted(range(len(most)), key=lambda row: (-most[row], names[row]))[: self.count]
