"""Projected gradient descent on what a detector reports: invisible noise, made for one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_DETECTIONS,
    Budgets,
    Capability,
    Context,
    Curve,
    Detections,
    Detector,
    Exhibit,
    Findings,
    Matches,
    Metric,
    Samples,
    Spec,
    ThreatModel,
    budget_text,
    difference_panel,
    found_objects,
    image_panel,
    marks_of,
    match_objects,
    objects_of,
)
from auditkit_plugins.detectors.flooding import false_detections, not_yet_false
from auditkit_plugins.detectors.losses import still_found
from auditkit_plugins.detectors.sign_steps import random_signs, sign_steps

__all__ = ["DetectorPGD"]

_EXHIBITS = 8
_GREY_LEVELS = 255
_PRECISION = "Average precision over the budget"
_VANISH = "Objects that vanish over the budget"
_WORDS = (("", "attacked", "the attack"), ("noise_", "noise", "random signs"))


@dataclass(frozen=True)
class DetectorPGD:
    """Follow the gradient of what the detector reports from a random point, within a budget of each colour value."""

    spec: ClassVar[Spec] = Spec(
        id="noise.pgd",
        title="Detections withstand the worst low-amplitude noise that gradients can find",
        why=(
            "Whoever holds the detector can compute which invisible change of the pixels makes it lose what it sees, "
            "or see what is not there. Random noise of the same amplitude stands beside it: the distance between the "
            "two is what intent adds to chance. Such noise rarely survives a camera, so read it as a measure of how "
            "smooth the detector is, not as a forecast of attacks in the street."
        ),
        metrics=(
            Metric("clean_ap50", "clean", "Average precision at an overlap of 0.5, clean images", "precision", at=0.5),
            Metric(
                "ap50", "by_attacked", "Average precision at an overlap of 0.5, attacked images", "precision", at=0.5
            ),
            Metric("noise_ap50", "by_noise", "The same under random signs of the same size", "precision", at=0.5),
            *(
                Metric(
                    f"{prefix}ap50_drop",
                    f"by_{kind}",
                    f"Average precision that {words} takes" if not prefix else f"Average precision that {words} take",
                    "precision",
                    against="clean",
                    at=0.5,
                )
                for prefix, kind, words in _WORDS
            ),
            Metric(
                "vanish_rate",
                "vanished_by_attacked",
                "Found objects that the attack makes vanish",
                "ratio",
                against="found",
            ),
            Metric(
                "noise_vanish_rate",
                "vanished_by_noise",
                "Found objects that random signs make vanish",
                "ratio",
                against="found",
            ),
            Metric("clean_false_detections", "false_clean", "False detections in a clean image", "mean"),
            Metric("false_detections", "false_attacked", "False detections in an attacked image", "mean"),
            Metric("noise_false_detections", "false_noise", "False detections in an image under random signs", "mean"),
            Metric(
                "lost_to_rounding",
                "found_again",
                "Objects that vanished and are found again once the image is stored with 8 bits a colour",
                "ratio",
                against="vanished_by_attacked",
            ),
        ),
        needs=frozenset({Capability.GRADIENTS}),
        curves=(
            *(
                Curve(f"{prefix}ap50", _PRECISION, "eps", figure=_PRECISION, line=words, unattacked="clean_ap50")
                for prefix, _, words in _WORDS
            ),
            *(
                Curve(f"{prefix}vanish_rate", _VANISH, "eps", figure=_VANISH, line=words, unattacked="")
                for prefix, _, words in _WORDS
            ),
        ),
        references=(
            "Madry et al. 2018, https://arxiv.org/abs/1706.06083",
            "Dong et al. 2018 (momentum), https://arxiv.org/abs/1710.06081",
            "Xie et al. 2017 (attacks on detectors), https://arxiv.org/abs/1703.08603",
            "Chow et al. 2020 (vanishing and fabrication), https://arxiv.org/abs/2004.04320",
        ),
        presets={
            "smoke": {"eps": "8/255", "steps": 5},
            "standard": {},
            "full": {"eps": "0.5/255, 1/255, 2/255, 4/255, 8/255", "steps": 40},
        },
    )

    eps: Budgets = (2 / 255, 8 / 255)
    steps: Annotated[int, Field(ge=1)] = 10
    goal: Literal["vanish", "flood"] = "vanish"
    """Shall what the detector reports in the clean image vanish, or the rest of the image be taken for objects?"""

    @property
    def threat_models(self) -> tuple[ThreatModel, ...]:
        """What the attacker may do, one a budget."""
        return tuple(ThreatModel("linf", eps) for eps in self.eps)

    def run(self, detector: Detector, samples: Samples, ctx: Context) -> Findings:
        """Attack each image alone at each budget; the deployed detector judges."""
        objects, clean = objects_of(samples), ctx.shelf.get(CLEAN_DETECTIONS)
        before = found_objects(clean, objects, detector.score)
        n = len(samples)
        columns = {"found": _counts(before), "false_clean": _false(clean, samples, detector)}
        matches: dict[str, Matches] = {"clean": match_objects(clean, objects)}
        exhibits: tuple[Exhibit, ...] = ()
        for eps in self.eps:
            name = budget_text(eps)
            attacked = self._attacked(detector, samples, eps, ctx)
            found = detector.detect(attacked)
            lost = _lost(before, found, samples, detector)
            noise = detector.detect(random_signs(samples.images, samples.ids, eps, ctx))
            lost_to_noise = _lost(before, noise, samples, detector)
            stored = detector.detect((attacked * _GREY_LEVELS).round() / _GREY_LEVELS)
            for kind, after, gone in (("attacked", found, lost), ("noise", noise, lost_to_noise)):
                columns[f"vanished_by_{kind}@{name}"] = _counts(gone)
                columns[f"false_{kind}@{name}"] = _false(after, samples, detector)
                matches[f"by_{kind}@{name}"] = match_objects(after, objects)
            again = found_objects(stored, objects, detector.score)
            columns[f"found_again@{name}"] = _counts([had & has for had, has in zip(lost, again, strict=True)])
            exhibits = self._exhibits(detector, samples, attacked, found, lost, name, ctx)
            ctx.progress(n // len(self.eps))
        return Findings(
            columns,
            exhibits,
            forwards=np.full(n, 1 + len(self.eps) * (self.steps + 3), dtype=np.int64),
            backwards=np.full(n, len(self.eps) * self.steps, dtype=np.int64),
            matches=matches,
        )

    def _attacked(self, detector: Detector, samples: Samples, eps: float, ctx: Context) -> Tensor:
        """Return the images (N, C, H, W) at the end of the search."""
        assert ctx.search is not None  # noqa: S101 (declared in the spec)
        seen = ctx.shelf.get(CLEAN_DETECTIONS).at_least(detector.score)
        # All places, used or not: how many there are must not depend on what is seen in other images.
        aligned = (seen.boxes, seen.classes.clamp_min(0), seen.scores > 0)
        loss = still_found(detector.score) if self.goal == "vanish" else not_yet_false
        return sign_steps(ctx.search, samples.images, samples.ids, eps, self.steps, loss, aligned, ctx)

    def _exhibits(
        self,
        detector: Detector,
        samples: Samples,
        attacked: Tensor,
        found: Detections,
        lost: Sequence[Tensor],
        budget: str,
        ctx: Context,
    ) -> tuple[Exhibit, ...]:
        """Show the images with most objects lost (of a flood: most false ones added), before and after."""
        objects, clean = objects_of(samples), ctx.shelf.get(CLEAN_DETECTIONS)
        vanished, false = _counts(lost), _false(found, samples, detector)
        added = (false - _false(clean, samples, detector)).clip(min=0)
        harm = (vanished if self.goal == "vanish" else added).tolist()
        ranked = sorted(range(len(samples)), key=lambda row: (-harm[row], samples.ids[row]))
        exhibits = []
        for row in [row for row in ranked if harm[row]][:_EXHIBITS]:
            image, own = samples.images[row], objects[row]
            panels = (
                image_panel("clean", image, marks_of(clean, row, own, detector.score, ctx.class_name)),
                image_panel(
                    "attacked", attacked[row], marks_of(found, row, own, detector.score, ctx.class_name, lost[row])
                ),
                difference_panel("difference", image, attacked[row]),
            )
            caption = f"within {budget}: objects that vanish {vanished[row]}, false detections {false[row]}"
            exhibits.append(Exhibit(samples.ids[row], caption, float(harm[row]), panels))
        return tuple(exhibits)


def _counts(flags: Sequence[Tensor]) -> npt.NDArray[np.int64]:
    return np.array([int(each.sum()) for each in flags], dtype=np.int64)


def _false(found: Detections, samples: Samples, detector: Detector) -> npt.NDArray[np.int64]:
    counts: npt.NDArray[np.int64] = false_detections(found, objects_of(samples), detector.score).cpu().numpy()
    return counts


def _lost(before: Sequence[Tensor], found: Detections, samples: Samples, detector: Detector) -> list[Tensor]:
    """Return bool (K,) for each image: the objects that were found before and are not now."""
    after = found_objects(found, objects_of(samples), detector.score)
    return [had & ~has for had, has in zip(before, after, strict=True)]
