"""A rule that tells attacked images from clean ones: what it listens to, how it weighs, and when it raises an alarm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from auditkit.covers import Fill, Windows
from auditkit.detection.conformal import conformal_threshold, images_needed
from auditkit.detection.consistency import CONSISTENCY_SCORES
from auditkit.detection.discriminant import Discriminant, fit_discriminant
from auditkit.detection.evidence import Evidence
from auditkit.errors import ExecutionError

__all__ = ["FALSE_ALARMS", "STICKER_SCORES", "StickerRule", "fit_rule"]

FALSE_ALARMS = (0.01, 0.05)
"""The shares of false alarms that thresholds are calibrated for."""

STICKER_SCORES = ("doubt", *CONSISTENCY_SCORES, "activity", "combined")
"""All scores, larger meaning more suspicious."""

_LEAST_PROMISE = max(FALSE_ALARMS)


@dataclass(frozen=True)
class StickerRule:
    """Scores for images, and the thresholds that hardly any clean image exceeds."""

    windows: Windows
    fill: Fill
    activity: Discriminant | None
    """Of what the network's units do; None without activations."""
    combined: Discriminant
    """Of everything that `Evidence` holds."""
    thresholds: Mapping[str, tuple[float, ...]]
    """By score: one for each of `FALSE_ALARMS`, infinite where too few images were there to promise so few."""
    fitted_on: tuple[int, int]
    """How many clean and how many attacked images the discriminants were fitted on."""
    spread: float
    """The standard deviation of the score of the activations on those images; 1 without activations."""
    calibrated_on: int
    """How many other clean images the thresholds were chosen on."""

    def scores(self, evidence: Evidence) -> dict[str, Tensor]:
        """Return float64 (N,) for each of `STICKER_SCORES`; without activations there is no `activity`."""
        found = {name: evidence.consistency.score(name) for name in CONSISTENCY_SCORES}
        found["doubt"] = evidence.doubt
        if self.activity is not None and evidence.activity is not None:
            found["activity"] = self.activity.score(evidence.activity)
        found["combined"] = self.combined.score(evidence.features)
        return found

    def threshold(self, score: str, false_alarms: float) -> float:
        """Return what a score has to exceed for an alarm.

        Raises:
            ExecutionError: there is no such score, or nothing was calibrated for so many false alarms.
        """
        if score not in self.thresholds:
            raise ExecutionError(f"wanted one of {', '.join(self.thresholds)}; got {score}")
        if false_alarms not in FALSE_ALARMS:
            raise ExecutionError(f"thresholds are there for {_listed(FALSE_ALARMS)} false alarms; got {false_alarms:g}")
        return self.thresholds[score][FALSE_ALARMS.index(false_alarms)]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return all of it as named arrays."""
        windows = {f"windows.{name.name}": np.array(getattr(self.windows, name.name)) for name in fields(self.windows)}
        discriminants = {"activity": self.activity, "combined": self.combined}
        return {
            **windows,
            "fill": np.array(self.fill),
            "scores": np.array(list(self.thresholds)),
            "thresholds": np.array(list(self.thresholds.values())),
            "fitted_on": np.array(self.fitted_on),
            "spread": np.array(self.spread),
            "calibrated_on": np.array(self.calibrated_on),
            **{
                f"{name}.{part.name}": getattr(one, part.name).cpu().numpy()
                for name, one in discriminants.items()
                if one is not None
                for part in fields(one)
            },
        }

    @staticmethod
    def of(arrays: Mapping[str, npt.NDArray[Any]]) -> StickerRule:
        """Return the rule that `arrays` made these of.

        Raises:
            KeyError: an array is missing.
        """
        given: dict[str, Any] = {part.name: arrays[f"windows.{part.name}"].tolist() for part in fields(Windows)}
        windows = Windows(**{**given, "tops": tuple(given["tops"]), "lefts": tuple(given["lefts"])})

        def discriminant(name: str) -> Discriminant:
            return Discriminant(*(torch.from_numpy(arrays[f"{name}.{part.name}"]) for part in fields(Discriminant)))

        clean, attacked = arrays["fitted_on"].tolist()
        return StickerRule(
            windows=windows,
            fill=cast(Fill, str(arrays["fill"])),
            activity=discriminant("activity") if "activity.weights" in arrays else None,
            combined=discriminant("combined"),
            thresholds={
                str(name): tuple(values)
                for name, values in zip(arrays["scores"], arrays["thresholds"].tolist(), strict=True)
            },
            fitted_on=(clean, attacked),
            spread=float(arrays["spread"]),
            calibrated_on=int(arrays["calibrated_on"]),
        )


def fit_rule(
    clean: Evidence,
    attacked: Sequence[Evidence],
    calibration: Evidence,
    windows: Windows,
    fill: Fill,
    shrinkage: float = 0.3,
) -> StickerRule:
    """Return the rule that tells images attacked in some ways from `clean`, calibrated on other clean images.

    Raises:
        ExecutionError: there are too few images of a group.
    """
    least = images_needed(_LEAST_PROMISE)
    everything = torch.cat([one.features for one in attacked])
    sizes = {"clean": len(clean.doubt), "attacked": len(everything), "calibration": len(calibration.doubt)}
    if min(sizes["clean"], sizes["attacked"]) < 2 or sizes["calibration"] < least:
        raise ExecutionError(
            "a sticker rule wants 2 clean images and 2 successfully attacked ones to learn from, and "
            f"{least} more clean ones for its thresholds; got {', '.join(map(str, sizes.values()))}: "
            "give more images, or the attack more queries"
        )
    listened = None
    heard = [one.activity for one in attacked if one.activity is not None]
    if clean.activity is not None and heard:
        listened = fit_discriminant(clean.activity, torch.cat(heard), shrinkage)
    rule = StickerRule(
        windows=windows,
        fill=fill,
        activity=listened,
        combined=fit_discriminant(clean.features, everything, shrinkage),
        thresholds={},
        spread=_spread(listened, calibration),
        fitted_on=(sizes["clean"], sizes["attacked"]),
        calibrated_on=sizes["calibration"],
    )
    return replace(rule, thresholds=_thresholds(rule, calibration))


def _spread(listened: Discriminant | None, calibration: Evidence) -> float:
    if listened is None or calibration.activity is None:
        return 1.0
    return float(listened.score(calibration.activity).std())


def _thresholds(rule: StickerRule, calibration: Evidence) -> dict[str, tuple[float, ...]]:
    possible = [rate for rate in FALSE_ALARMS if len(calibration.doubt) >= images_needed(rate)]
    return {
        name: tuple(conformal_threshold(scores, rate) if rate in possible else math.inf for rate in FALSE_ALARMS)
        for name, scores in rule.scores(calibration).items()
    }


def _listed(rates: Sequence[float]) -> str:
    return " or ".join(f"{rate:g}" for rate in rates)
