"""RISE: which parts of the image keep the decision, from scores alone, by looking through random masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_LOGITS,
    Capability,
    Context,
    Exhibit,
    Findings,
    FlagRule,
    Metric,
    Model,
    Samples,
    Spec,
    image_panel,
    overlay_panel,
)
from auditkit_plugins.attribution.findings import Gallery, Share, concentrations
from auditkit_plugins.random_masks import RandomMasks

__all__ = ["Rise"]

# Sums over masks are taken in parts of this size whatever the batch, so that they always round alike.
_PART = 64
# A probability that changes by less may have changed by rounding.
_LEAST_CHANGE = 1e-6
_RELIABLE = 0.5


@dataclass(frozen=True)
class Rise:
    """Show the model the image through many random masks; what is visible where it stays sure keeps the decision."""

    spec: ClassVar[Spec] = Spec(
        id="explain.rise",
        title="The decision rests on a part of the image, as far as scores can tell",
        why=(
            "A map of what counts for the decision that needs nothing but scores: no gradients, no layers, and no "
            "window of the right size. The model sees the image through thousands of random masks. It is dear, so "
            "only some of the images are explained, and each map says how far it would come out again."
        ),
        metrics=(
            Metric("explained", "explained", "Images that were explained"),
            Metric(
                "concentration",
                "concentration",
                "Share of the map in its strongest tenth of the pixels",
                "mean",
                among="responds",
            ),
            Metric(
                "reliability",
                "reliability",
                "Correlation between the maps of two halves of the masks",
                "mean",
                among="responds",
            ),
            Metric("unsettled", "unsettled", "Maps whose two halves do not agree", among="responds"),
            Metric("responds", "responds", "Explained images whose probability the masks change", among="explained"),
        ),
        needs=frozenset({Capability.SCORES}),
        flags=(
            FlagRule(
                "explain.rise.unsettled",
                "unsettled",
                above=0.2,
                text="The maps of explain.rise hang on which masks were drawn: two halves of them give different maps.",
                remedy="Raise the masks of explain.rise, or lower its grid.",
            ),
        ),
        references=("Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421",),
        presets={"full": {}},
    )

    masks: Annotated[int, Field(ge=20, multiple_of=2)] = 2000
    """Masks for each image that is explained."""
    grid: Annotated[int, Field(ge=2, le=64)] = 7
    """Cells of a mask along either side."""
    keep: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The chance of a cell to be kept; a hidden one is black."""
    share: Share = 0.1
    """The share of the images that are explained, chosen by their names."""
    top: Share = 0.1
    """The share of the pixels that `concentration` looks at."""
    gallery: Gallery = 8

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Map the chosen images; show the most confident mistakes first."""
        predicted = ctx.shelf.get(CLEAN_LOGITS).argmax(1)
        drawn = ctx.streams(samples.ids, "chosen").uniform(0, (1,)).squeeze(1)
        maps: dict[int, _Map] = {}
        for row, chosen in enumerate((drawn < self.share).tolist()):
            if chosen:
                maps[row] = self._map(samples.images[row], predicted[row], samples.ids[row], model, ctx)
            ctx.progress(1)
        columns = _columns(maps, len(samples), self.top)
        passes = np.where(columns["explained"], self.masks + 1, 1).astype(np.int64)
        return Findings(columns, self._exhibits(maps, samples, ctx), passes)

    def _map(self, image: Tensor, label: Tensor, name: str, model: Model, ctx: Context) -> _Map:
        masks = RandomMasks.draw(ctx.streams([name], "masks"), self.masks, self.grid, self.keep)
        probabilities = []
        for start in range(0, self.masks, ctx.batch):
            ctx.check_time()
            masked = image * masks.over(image, slice(start, start + ctx.batch)).unsqueeze(1)
            probabilities.append(model.quick_logits(masked).softmax(1)[:, label])
        return _Map.of(torch.cat(probabilities).double(), masks, image)

    def _exhibits(self, maps: dict[int, _Map], samples: Samples, ctx: Context) -> tuple[Exhibit, ...]:
        logits = ctx.shelf.get(CLEAN_LOGITS)
        confidence, predicted = torch.softmax(logits.double(), 1).max(1)
        scores = (confidence + (predicted != samples.labels)).tolist()
        exhibits = []
        for row in sorted(maps, key=lambda row: (-scores[row], samples.ids[row]))[: self.gallery]:
            true, taken = ctx.class_name(int(samples.labels[row])), ctx.class_name(int(predicted[row]))
            verdict = f"{true}, recognised" if true == taken else f"{true} is taken for {taken}"
            caption = (
                f"{verdict} with {float(confidence[row]):.1%} confidence; "
                f"two halves of the {self.masks} masks agree to {maps[row].reliability:.2f}"
            )
            panels = (
                image_panel(f"image: {true}", samples.images[row]),
                overlay_panel(f"what keeps {taken}", samples.images[row], maps[row].kept),
            )
            exhibits.append(Exhibit(samples.ids[row], caption, scores[row], panels))
        return tuple(exhibits)


@dataclass(frozen=True)
class _Map:
    """What the masks say about one image."""

    kept: Tensor
    """float64 (H, W): by how much the class is more probable where a pixel is visible, 0 where it is less."""
    reliability: float
    """Correlation between the maps of the even and of the odd masks; 0 where one of them is flat."""
    responds: bool

    @staticmethod
    def of(probabilities: Tensor, masks: RandomMasks, image: Tensor) -> _Map:
        """Return the map of an image (C, H, W) from the class's probabilities, float64 (M,), under the masks."""
        size = image.shape[1:]
        seen, visible = (torch.zeros(2, *size, dtype=torch.float64, device=image.device) for _ in range(2))
        for start in range(0, len(probabilities), _PART):
            part = slice(start, start + _PART)
            # Even and odd masks.
            pairs = masks.over(image, part).double().view(-1, 2, *size)
            seen += (pairs * probabilities[part].view(-1, 2, 1, 1)).sum(0)
            visible += pairs.sum(0)
        halves = _mean(seen, visible).cpu().numpy()
        low, high = probabilities.aminmax()
        kept = (_mean(seen.sum(0), visible.sum(0)) - probabilities.mean()).clamp_min(0)
        return _Map(kept, _correlation(halves[0], halves[1]), bool(high - low > _LEAST_CHANGE))


def _mean(seen: Tensor, visible: Tensor) -> Tensor:
    """Return the mean probability where each pixel is visible; that of a pixel that never is, is 0."""
    return torch.where(visible > 0, seen / visible.clamp_min(torch.finfo(torch.float64).tiny), 0.0)


def _correlation(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Return the correlation of two maps, 0 where one of them is flat."""
    centred = np.stack([one - one.mean(), other - other.mean()])
    scale = float(np.sqrt((centred**2).sum((1, 2)).prod()))
    return float((centred[0] * centred[1]).sum()) / scale if scale > 0 else 0.0


def _columns(maps: dict[int, _Map], n: int, top: float) -> dict[str, npt.NDArray[np.generic]]:
    """Return the columns of the findings: NaN where an image was not explained, or nothing changes its probability."""
    columns: dict[str, npt.NDArray[np.generic]] = {
        "explained": np.isin(np.arange(n), list(maps)),
        "responds": np.zeros(n, dtype=bool),
        "unsettled": np.zeros(n, dtype=bool),
        "concentration": np.full(n, np.nan),
        "reliability": np.full(n, np.nan),
    }
    for row, one in maps.items():
        concentration = concentrations(one.kept.unsqueeze(0), top)[0]
        if one.responds and np.isfinite(concentration):
            columns["responds"][row] = True
            columns["unsettled"][row] = one.reliability < _RELIABLE
            columns["concentration"][row] = concentration
            columns["reliability"][row] = one.reliability
    return columns
