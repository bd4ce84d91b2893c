"""What a detector still finds in front of a camera: images after real-life distortions, their boxes carried along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_DETECTIONS,
    Context,
    Curve,
    Detector,
    Findings,
    Matches,
    Metric,
    Samples,
    Spec,
    match_objects,
    objects_of,
)
from auditkit_plugins.camera import DISTORTIONS, RANDOM, STRENGTHS, DistortionName
from auditkit_plugins.camera.sightlines import sightlines
from auditkit_plugins.detectors.carrying import Sources
from auditkit_plugins.detectors.looking import Way, hardest, look, pooled
from auditkit_plugins.levels import Strengths

__all__ = ["DetectorSurvival"]


@dataclass(frozen=True)
class _Shot:
    """One way in which every image is distorted."""

    name: DistortionName
    strength: int
    draw: int

    def way(self, ctx: Context) -> Way:
        """Return it with the draws of this audit."""
        words = f"{self.name.replace('_', ' ')} of strength {self.strength}"
        return Way(words, self.strength / (STRENGTHS[-1] + 1), partial(_distorted, self, ctx))


@dataclass(frozen=True)
class DetectorSurvival:
    """Distort every image as a camera does, and count what is still found where it now lies."""

    spec: ClassVar[Spec] = Spec(
        id="physical.survival",
        title="Objects are still found when a camera sees them",
        why=(
            "A lens bends an image, it hangs askew, light, blur, noise and compression change it: a detector in "
            "service never sees the image that it was tested on. Here every image goes through models of these "
            "distortions, and the annotated boxes go with it. What such a distortion costs without any attack is what "
            "an attack that is said to survive a camera has to be compared with."
        ),
        metrics=(
            Metric("clean_ap50", "clean", "Average precision at an overlap of 0.5, clean images", "precision", at=0.5),
            Metric("ap50", "distorted", "The same over all distortions together", "precision", at=0.5),
            Metric(
                "found_rate",
                "still",
                "Found objects that are still found, over all distortions",
                "ratio",
                against="in_view",
            ),
            *(
                metric
                for name in DISTORTIONS
                for metric in (
                    Metric(
                        f"ap50_{name}",
                        f"by_{name}",
                        f"Average precision at an overlap of 0.5 after {name.replace('_', ' ')}, over all strengths",
                        "precision",
                        at=0.5,
                    ),
                    Metric(
                        f"stays_found_{name}",
                        f"still_{name}",
                        f"Found objects that are still found after {name.replace('_', ' ')}, over all strengths",
                        "ratio",
                        against=f"in_view_{name}",
                    ),
                )
            ),
        ),
        curves=(
            Curve("ap50", "Average precision over the distortions' strength", "strength", unattacked="clean_ap50"),
            Curve("found_rate", "Objects still found over the distortions' strength", "strength", unattacked=""),
        ),
        references=(
            "Kurakin et al. 2017, https://arxiv.org/abs/1607.02533",
            "Athalye et al. 2018, https://arxiv.org/abs/1707.07397",
            "Horváth 2020, Adversarial samples in machine learning (talk)",
        ),
        presets={
            "smoke": {"strengths": "2"},
            "standard": {},
            "full": {"draws": 4},
        },
    )

    strengths: Strengths = STRENGTHS
    draws: Annotated[int, Field(ge=1)] = 1
    """Random draws of each distortion at each strength."""
    gallery: Annotated[int, Field(ge=0)] = 8

    def run(self, detector: Detector, samples: Samples, ctx: Context) -> Findings:
        """Show all images to the camera, one way after the other, and ask the deployed detector what it sees."""
        shots = self._shots()
        found, in_view, still = [], [], []
        for shot in shots:
            seen = look(detector, samples, shot.way(ctx).distort, ctx)
            found.append(match_objects(seen.found, seen.objects))
            in_view.append(seen.in_view)
            still.append(seen.still)
        matches: dict[str, Matches] = {"clean": match_objects(ctx.shelf.get(CLEAN_DETECTIONS), objects_of(samples))}
        columns: dict[str, npt.NDArray[Any]] = {}
        for end, chosen in _parts(shots).items():
            matches[f"distorted{end}" if end.startswith("@") else f"by{end}"] = pooled([found[at] for at in chosen])
            columns[f"in_view{end}"] = np.mean([in_view[at] for at in chosen], axis=0)
            columns[f"still{end}"] = np.mean([still[at] for at in chosen], axis=0)
        ctx.progress(len(samples))
        passes = np.full(len(samples), 1 + len(shots), dtype=np.int64)
        lost = np.stack(in_view, 1) - np.stack(still, 1)
        exhibits = hardest(detector, samples, [shot.way(ctx) for shot in shots], lost, self.gallery, ctx)
        return Findings(columns, exhibits, forwards=passes, backwards=np.zeros_like(passes), matches=matches)

    def _shots(self) -> tuple[_Shot, ...]:
        return tuple(
            _Shot(name, strength, draw)
            for name in DISTORTIONS
            for strength in self.strengths
            for draw in range(self.draws if name in RANDOM else 1)
        )


def _distorted(shot: _Shot, ctx: Context, images: Tensor, ids: tuple[str, ...]) -> tuple[Tensor, Sources | None]:
    # The same draws at every strength: a curve then compares strengths, not luck.
    streams = ctx.streams(ids, shot.name)
    points = sightlines(shot.name, images, shot.strength, streams, shot.draw)
    distorted = DISTORTIONS[shot.name](images, shot.strength, streams, shot.draw)
    if points is None:
        return distorted, None
    height, width = images.shape[2:]
    return distorted, Sources(points[0] / height + 0.5, points[1] / width + 0.5)


def _parts(shots: Sequence[_Shot]) -> dict[str, list[int]]:
    """Return which shots are of each strength, and of each distortion, by what their columns end with."""
    parts: dict[str, list[int]] = {}
    for at, shot in enumerate(shots):
        parts.setdefault(f"@{shot.strength}", []).append(at)
        parts.setdefault(f"_{shot.name}", []).append(at)
    return parts
