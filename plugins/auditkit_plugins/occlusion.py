"""Occlusion: which part of the image the decision hangs on, by covering one part after the other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_LOGITS,
    QUICK_LOGITS,
    Capability,
    Context,
    CoverSweep,
    Exhibit,
    Fill,
    Findings,
    Map,
    Metric,
    Model,
    Samples,
    Spec,
    Windows,
    filling,
    heat_panel,
    image_panel,
    overlay_panel,
    pixel_map,
    zeiler_map,
)
from auditkit_plugins.attribution.findings import Gallery, Share, concentrations

__all__ = ["Occlusion"]

Length = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Occlusion:
    """Move a cover over the image and watch the predicted class's score: where it falls, the decision hangs."""

    spec: ClassVar[Spec] = Spec(
        id="explain.occlusion",
        title="No decision hangs on a small part of the image",
        why=(
            "Covering a part of the image and watching the score is the plainest explanation there is. It needs no "
            "gradients, so it works for every model that gives scores, and it cannot be fooled by a gradient that "
            "says nothing. Where one small cover changes the decision, dirt or a sticker there would, too; and where "
            "the cover that matters most does not lie on the object, the model looks at something else."
        ),
        metrics=(
            Metric("flips", "flips", "Images whose decision at least one cover changes"),
            Metric("flipping_share", "flipping_share", "Mean share of the covers that change the decision", "mean"),
            Metric(
                "largest_drop",
                "largest_drop",
                "Mean of the most that one cover takes from the class's probability",
                "mean",
            ),
            Metric(
                "concentration",
                "concentration",
                "Share of the map in its strongest tenth of the pixels",
                "mean",
                among="responds",
            ),
            Metric("responds", "responds", "Images in which some cover lowers the score"),
        ),
        needs=frozenset({Capability.SCORES}),
        maps=(Map("Where the cover lies that lowers the score most", "strongest_row", "strongest_column"),),
        references=("Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901",),
        presets={"standard": {}, "full": {}},
    )

    window: Length | None = None
    """Side of the cover: pixels from 1 on, below 1 a share of the image's side. None: the windows that checks share."""
    stride: Length | None = None
    """From one cover to the next, likewise. None: half of the window."""
    fill: Fill = "mean"
    """What the cover shows: the image's mean colour, middle grey, the blurred image, or black."""
    top: Share = 0.1
    """The share of the pixels that `concentration` looks at."""
    gallery: Gallery = 8

    def __post_init__(self) -> None:
        """Refuse lengths that are none.

        Raises:
            ValueError: a length in pixels is no whole number, or there is a stride and no window.
        """
        for name, length in (("window", self.window), ("stride", self.stride)):
            if length is not None and length >= 1 and length != int(length):
                raise ValueError(f"a {name} from 1 on is in whole pixels, below 1 a share of the side; got {length:g}")
        if self.stride is not None and self.window is None:
            raise ValueError("a stride goes with a window: without one, the windows are those that checks share")

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Sweep a cover over every image; show the images first that lose most under one."""
        windows = self._windows(*samples.images.shape[2:])
        predicted = ctx.shelf.get(CLEAN_LOGITS).argmax(1)
        clean = ctx.shelf.get(QUICK_LOGITS)
        covered = ctx.shelf.get(CoverSweep(windows, self.fill, ctx.check_time).artifact)
        drops = _chosen(clean.unsqueeze(1), predicted) - _chosen(covered, predicted)
        effect = _Effect(
            windows=windows,
            predicted=predicted,
            before=_chosen(clean.unsqueeze(1).softmax(2), predicted).double().squeeze(1),
            after=_chosen(covered.softmax(2), predicted).double(),
            labels=covered.argmax(2),
            strongest=drops.argmax(1),
            maps=pixel_map(drops, windows).clamp_min(0),
        )
        ctx.progress(len(samples))
        passes = np.full(len(samples), len(windows) + 2, dtype=np.int64)
        return Findings(effect.columns(self.top), self._exhibits(effect, samples, ctx), passes)

    def _windows(self, height: int, width: int) -> Windows:
        if self.window is None:
            return Windows.standard(height, width)
        size = _pixels(self.window, height), _pixels(self.window, width)
        if self.stride is None:
            return Windows.grid(height, width, size, (math.ceil(size[0] / 2), math.ceil(size[1] / 2)))
        return Windows.grid(height, width, size, (_pixels(self.stride, height), _pixels(self.stride, width)))

    def _exhibits(self, effect: _Effect, samples: Samples, ctx: Context) -> tuple[Exhibit, ...]:
        drops = (effect.before - effect.after.amin(1)).tolist()
        ranked = sorted(range(len(samples)), key=lambda row: (-drops[row], samples.ids[row]))
        return tuple(self._exhibit(effect, row, drops[row], samples, ctx) for row in ranked[: self.gallery])

    def _exhibit(self, effect: _Effect, row: int, drop: float, samples: Samples, ctx: Context) -> Exhibit:
        image, window = samples.images[row], int(effect.strongest[row])
        true, taken = ctx.class_name(int(samples.labels[row])), ctx.class_name(int(effect.predicted[row]))
        then = ctx.class_name(int(effect.labels[row, window]))
        verdict = f"{true}, recognised" if true == taken else f"{true} is taken for {taken}"
        flips = int((effect.labels[row] != effect.predicted[row]).sum())
        caption = (
            f"{verdict} with {float(effect.before[row]):.1%} confidence; one cover takes {max(drop, 0):.1%} of it; "
            f"{flips} of {len(effect.windows)} covers change the decision"
        )
        panels = (
            image_panel(f"image: {true}", image),
            overlay_panel(f"what counts for {taken}", image, effect.maps[row]),
            heat_panel(f"probability of {taken} with the cover there", effect.zeiler[row]),
            image_panel(f"the strongest cover: {then}", self._covered(image, effect.windows, window)),
        )
        return Exhibit(samples.ids[row], caption, drop, panels)

    def _covered(self, image: Tensor, windows: Windows, window: int) -> Tensor:
        top, left = windows.corners[window]
        shown = image.clone()
        fill = filling(self.fill, windows)(image.unsqueeze(0)).expand(1, *image.shape)[0]
        part = (slice(None), slice(top, top + windows.height), slice(left, left + windows.width))
        shown[part] = fill[part]
        return shown


@dataclass(frozen=True)
class _Effect:
    """What K covers do to N samples."""

    windows: Windows
    predicted: Tensor
    """int64 (N,): the deployed model's classes of the clean images."""
    before: Tensor
    """float64 (N,): their probabilities."""
    after: Tensor
    """float64 (N, K): the same under each cover."""
    labels: Tensor
    """int64 (N, K): the class under each cover."""
    strongest: Tensor
    """int64 (N,): the cover that lowers the score most."""
    maps: Tensor
    """float64 (N, H, W): by how much the covers of a pixel lower the score, 0 where they raise it."""

    @property
    def zeiler(self) -> Tensor:
        """float64 (N, rows, columns): the class's probability where the cover's centre lies."""
        return zeiler_map(self.after, self.windows)

    def columns(self, top: float) -> dict[str, npt.NDArray[np.generic]]:
        """Return the columns of the findings."""
        concentration = concentrations(self.maps, top)
        responds = np.isfinite(concentration)
        flips = (self.labels != self.predicted.unsqueeze(1)).cpu().numpy()
        centres = np.array(self.windows.centres, dtype=np.float64)[self.strongest.cpu().numpy()]
        return {
            "flips": flips.any(1),
            "flipping_share": flips.sum(1) / flips.shape[1],
            "largest_drop": (self.before - self.after.amin(1)).cpu().numpy(),
            "concentration": concentration,
            "responds": responds,
            "strongest_row": np.where(responds, centres[:, 0], np.nan),
            "strongest_column": np.where(responds, centres[:, 1], np.nan),
        }


def _chosen(scores: Tensor, classes: Tensor) -> Tensor:
    """Return (N, K) of scores (N, K, classes): those of each sample's own class."""
    return scores.gather(2, classes.view(-1, 1, 1).expand(-1, scores.shape[1], 1)).squeeze(2)


def _pixels(length: float, side: int) -> int:
    """Return a length in pixels: itself, or that share of a side, rounded up."""
    return int(length) if length >= 1 else math.ceil(length * side)
