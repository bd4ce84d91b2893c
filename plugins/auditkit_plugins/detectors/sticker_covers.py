"""Would a patch be noticed by covering parts of the image, and watching what appears and vanishes?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    Context,
    Curve,
    Detector,
    Exhibit,
    Fill,
    Findings,
    FlagRule,
    Lesson,
    Metric,
    Samples,
    Spec,
    Windows,
    conformal_threshold,
    image_panel,
    mark,
)
from auditkit_plugins.detectors.cover_changes import Changes, cover_changes
from auditkit_plugins.detectors.image_patches import PATCHES, Patch, Patched, patched
from auditkit_plugins.detectors.vanishing import found_targets
from auditkit_plugins.detectors.wearing import Wardrobe

__all__ = ["DetectStickersOnObjects"]

Columns = dict[str, npt.NDArray[Any]]

_STICKER = 0.15
_FLOOD_AREA = 0.05
_EXHIBITS = 4
_SIDES = ("appears", "vanishes")
_WORDS = {
    "vanish": "a patch under which the surest object vanishes",
    "flood": "a patch that is taken for several objects",
}


def _metrics() -> tuple[Metric, ...]:
    found = [
        Metric("false_alarm_rate", "clean_alarm", "Clean images with an alarm"),
        Metric(
            "harmless_alarm_rate",
            "harmless_alarm",
            "Images in which every found object wears a grey sticker: share with an alarm",
            among="harmless_worn",
        ),
    ]
    for kind, words in _WORDS.items():
        succeeded = f"{kind}_succeeds"
        found += [
            Metric(f"{kind}_succeeds", succeeded, f"Images on which {words} succeeds"),
            Metric(f"{kind}_auroc", f"{kind}_score", f"AUROC, {words}", "auroc", against="clean_score"),
            *(
                Metric(
                    f"{kind}_auroc_{side}",
                    f"{kind}_{side}",
                    f"The same by what {side} alone, {words}",
                    "auroc",
                    against=f"clean_{side}",
                )
                for side in _SIDES
            ),
            Metric(
                f"{kind}_auroc_harmless",
                f"{kind}_score",
                f"AUROC against images with grey stickers, {words}",
                "auroc",
                against="harmless_score",
            ),
            Metric(f"{kind}_tpr", f"{kind}_score", f"TPR at 5 % FPR, {words}", "tpr", against="clean_score", at=0.05),
            Metric(f"{kind}_noticed", f"{kind}_alarm", f"Share with an alarm, {words}", among=succeeded),
            Metric(
                f"{kind}_points_at_patch",
                f"{kind}_points",
                f"The cover that changes most touches it: {words}",
                among=succeeded,
            ),
            Metric(
                f"{kind}_points_by_chance", f"{kind}_chance", f"A random cover does: {words}", "mean", among=succeeded
            ),
        ]
    return tuple(found)


@dataclass(frozen=True)
class DetectStickersOnObjects:
    """Cover parts of an image, one after the other, and raise an alarm where objects appear or vanish."""

    spec: ClassVar[Spec] = Spec(
        id="detect.stickers",
        title="Patches that blind the detector are noticed by covering them",
        why=(
            "A patch is a small thing with a large effect, and covering it should take the effect away: an object that "
            "it hid comes back, and one that it feigned goes. So covering parts of an image, one after the other, "
            "could reveal it. But objects also come and go under covers in images that nobody attacked. Whether the "
            "two can be told apart is measured here, beside images with harmless grey stickers."
        ),
        metrics=_metrics(),
        scope="dataset",
        curves=tuple(
            Curve(
                f"{kind}_auroc",
                f"Receiver operating characteristic: {words}",
                "false alarms",
                column=f"{kind}_score",
                against="clean_score",
                figure="Patches told from clean images by what a cover changes",
                line=words,
            )
            for kind, words in _WORDS.items()
        ),
        flags=(
            FlagRule(
                "detect.covers_false_alarms",
                "false_alarm_rate",
                0.25,
                "More than a quarter of the clean images raise an alarm.",
                "Calibrate on images of the kind that it will see.",
            ),
        ),
        references=(
            "Horváth 2020, Adversarial samples in machine learning (talk)",
            "McCoyd et al. 2020 (Minority Reports), https://arxiv.org/abs/2004.13799",
            "Xiang and Mittal 2021 (DetectorGuard), https://arxiv.org/abs/2102.02956",
            "Vovk 2012 (conditional validity), https://arxiv.org/abs/1209.2673",
        ),
        presets={"full": {}},
    )

    grid: Annotated[int, Field(ge=2)] = 6
    """How many covers there are along an axis; together they hide the whole image."""
    fill: Fill = "mean"
    """What a cover shows."""
    hidden: Annotated[float, Field(ge=0, le=1)] = 0.75
    """Objects of whose box a cover hides more than this share do not count for it."""
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The share of false alarms that the threshold is calibrated for."""
    area: Annotated[float, Field(gt=0, le=1)] = 0.15
    """The share of the surest object's box that a patch covers."""
    steps: Annotated[int, Field(ge=1)] = 30
    """Of the search for each patch; ten times as many queries where there are no gradients."""

    def learn(self, detector: Detector, samples: Samples, ctx: Context) -> Lesson:
        """Return the threshold that hardly any clean image exceeds, and how many images say so."""
        scores = self._changes(detector, samples.images, ctx).strongest.amax(1)
        threshold = conformal_threshold(scores, self.false_alarms)
        return {"threshold": np.array(threshold), "calibrated_on": np.array(len(samples))}

    def _changes(self, detector: Detector, images: Tensor, ctx: Context) -> Changes:
        return cover_changes(detector, images, self._windows(images), self.fill, self.hidden, ctx.check_time)

    def _windows(self, images: Tensor) -> Windows:
        height, width = images.shape[2:]
        size = (math.ceil(height / self.grid), math.ceil(width / self.grid))
        return Windows.grid(height, width, size, size)

    def run(self, detector: Detector, samples: Samples, ctx: Context) -> Findings:
        """Judge the alarm on clean images, on harmless stickers, and on patches made for each image."""
        threshold, n = float(ctx.lesson["threshold"]), len(samples)
        clean = self._changes(detector, samples.images, ctx)
        score = clean.strongest.amax(1)
        columns: Columns = {
            "clean_score": _numbers(score),
            **{f"clean_{side}": _numbers(getattr(clean, side).amax(1)) for side in _SIDES},
            "clean_alarm": (score.double() > threshold).cpu().numpy(),
        }
        columns |= self._harmless(detector, samples, threshold, ctx)
        covers = clean.appears.shape[1]
        forwards = np.full(n, 2 * (covers + 1) + 1, dtype=np.int64)
        backwards = np.zeros(n, dtype=np.int64)
        exhibits: list[Exhibit] = []
        for kind in PATCHES:
            made = patched(kind, detector, samples, self._area(kind), self.steps, ctx)
            changes = self._changes(detector, made.images, ctx)
            own, shown = self._judged(kind, made, changes, threshold, samples)
            columns |= own
            exhibits += shown
            forwards += made.forwards.cpu().numpy()
            forwards[made.rows.cpu().numpy()] += covers + 1
            backwards += made.backwards.cpu().numpy()
        ctx.progress(n)
        return Findings(columns, tuple(exhibits), forwards=forwards, backwards=backwards)

    def _area(self, kind: Patch) -> float:
        return self.area if kind == "vanish" else _FLOOD_AREA

    def _harmless(self, detector: Detector, samples: Samples, threshold: float, ctx: Context) -> Columns:
        """Put grey stickers on every object that is found: they attack nobody."""
        targets = found_targets(detector, samples, ctx)
        rows = sorted({target.row for target in targets})
        tile = samples.images.new_zeros(1, samples.images.shape[1], 1, 1)
        worn = Wardrobe(detector, samples, tile, "one", "on", ctx).together(targets, "plain", _STICKER)
        score = self._changes(detector, worn[rows], ctx).strongest.amax(1)
        return {
            "harmless_worn": _spread(np.ones(len(rows), dtype=bool), rows, len(samples), False),
            "harmless_score": _spread(_numbers(score), rows, len(samples), np.nan),
            "harmless_alarm": _spread((score.double() > threshold).cpu().numpy(), rows, len(samples), False),
        }

    def _judged(
        self, kind: Patch, made: Patched, changes: Changes, threshold: float, samples: Samples
    ) -> tuple[Columns, list[Exhibit]]:
        """Return the columns of a kind of patches, and pictures of those that are noticed least."""
        windows = self._windows(samples.images)
        touched = _touched(windows, made.where)
        score, strongest = changes.strongest.max(1)
        alarm = score.double() > threshold
        hit = touched.gather(1, strongest.unsqueeze(1)).squeeze(1)
        rows, n = made.rows.tolist(), len(samples)
        columns = {
            f"{kind}_succeeds": _spread(np.ones(len(rows), dtype=bool), rows, n, False),
            f"{kind}_score": _spread(_numbers(score), rows, n, np.nan),
            **{f"{kind}_{side}": _spread(_numbers(getattr(changes, side).amax(1)), rows, n, np.nan) for side in _SIDES},
            f"{kind}_alarm": _spread(alarm.cpu().numpy(), rows, n, False),
            f"{kind}_points": _spread(hit.cpu().numpy(), rows, n, False),
            f"{kind}_chance": _spread(_numbers(touched.double().mean(1)), rows, n, np.nan),
        }
        exhibits = []
        for at in sorted(range(len(rows)), key=lambda one: (float(score[one]), samples.ids[rows[one]]))[:_EXHIBITS]:
            top, left = windows.corners[int(strongest[at])]
            edges = [left, top, left + windows.width, top + windows.height]
            box = torch.tensor(edges) / torch.tensor([windows.image_width, windows.image_height] * 2)
            exhibits.append(
                Exhibit(
                    samples.ids[rows[at]],
                    f"{_WORDS[kind]}: {'noticed' if bool(alarm[at]) else 'not noticed'}",
                    1 - float(score[at]),
                    (
                        image_panel("clean", samples.images[rows[at]]),
                        image_panel(
                            "attacked; the cover that changes most",
                            made.images[at],
                            (mark(box, "", "patch"),),
                        ),
                    ),
                )
            )
        return columns, exhibits


def _numbers(values: Tensor) -> npt.NDArray[np.float64]:
    return values.double().cpu().numpy()


def _spread(values: npt.NDArray[Any], rows: Sequence[int], n: int, empty: Any) -> npt.NDArray[Any]:
    """Return (n,): the values of these rows, and `empty` elsewhere."""
    column = np.full(n, empty, dtype=values.dtype)
    column[list(rows)] = values
    return column


def _touched(windows: Windows, where: Tensor) -> Tensor:
    """Return bool (M, K): whether each window hides a pixel of the patch, bool (M, H, W)."""
    return torch.stack(
        [
            where[:, top : top + windows.height, left : left + windows.width].flatten(1).any(1)
            for top, left in windows.corners
        ],
        1,
    )
