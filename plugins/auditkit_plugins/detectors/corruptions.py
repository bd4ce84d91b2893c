"""Natural corruptions before a detector: noise, blur, weather and processing that nobody aimed at it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from auditkit import (
    CLEAN_DETECTIONS,
    Context,
    Curve,
    Detector,
    ExecutionError,
    Findings,
    Matches,
    Metric,
    Samples,
    Spec,
    match_objects,
    objects_of,
)
from auditkit_plugins.detectors.carrying import Sources, traced
from auditkit_plugins.detectors.looking import Way, hardest, look, pooled
from auditkit_plugins.distortions import DISTORTIONS, NEEDS_COLOUR, DistortionName
from auditkit_plugins.levels import SEVERITIES, Severities
from auditkit_plugins.listed import listed

__all__ = ["CARRIED", "LEFT_OUT", "DetectorCorruptions"]

_COLOURS = 3

LEFT_OUT: frozenset[DistortionName] = frozenset({"elastic"})
"""What bends an image and mirrors it at its edges: no box can be carried through."""

CARRIED: frozenset[DistortionName] = frozenset({"motion_blur", "zoom_blur"})
"""What smears an image to one side, or outwards: means of pixels whose middle lies elsewhere."""

_NAMES: tuple[DistortionName, ...] = tuple(name for name in DISTORTIONS if name not in LEFT_OUT)


def _placeable(names: tuple[DistortionName, ...]) -> tuple[DistortionName, ...]:
    """Return each name once.

    Raises:
        ValueError: one of them moves pixels so that boxes cannot follow.
    """
    for name in names:
        if name in LEFT_OUT:
            raise ValueError(f"{name} bends the image, and boxes cannot follow; there are {', '.join(_NAMES)}")
    return tuple(dict.fromkeys(names))


_Names = Annotated[tuple[DistortionName, ...], BeforeValidator(listed), Field(min_length=1), AfterValidator(_placeable)]


@dataclass(frozen=True)
class _Variant:
    """One way in which every image is corrupted."""

    name: DistortionName
    severity: int

    def way(self, ctx: Context) -> Way:
        """Return it with the draws of this audit."""
        words = f"{self.name.replace('_', ' ')} of severity {self.severity}"
        return Way(words, self.severity / (SEVERITIES[-1] + 1), partial(_corrupted, self, ctx))


@dataclass(frozen=True)
class DetectorCorruptions:
    """Corrupt every image in the ways of ImageNet-C, and count what is still found."""

    spec: ClassVar[Spec] = Spec(
        id="noise.corruptions",
        title="Objects are found in any weather, through any sensor and file format",
        why=(
            "Cameras meet fog, blur, noise and compression every day, and no attacker at all. A detector that loses "
            "many objects at severity 1 or 2 will lose them in service, and nobody is told what was not seen. "
            "Corruptions differ: what withstands blur may fail in noise, so look at each before you trust the mean."
        ),
        metrics=(
            Metric("clean_ap50", "clean", "Average precision at an overlap of 0.5, clean images", "precision", at=0.5),
            Metric("ap50", "corrupted", "The same over all corruptions together", "precision", at=0.5),
            Metric(
                "ap50_drop",
                "corrupted",
                "Average precision that the corruptions take",
                "precision",
                against="clean",
                at=0.5,
            ),
            Metric(
                "vanish_rate",
                "vanished",
                "Found objects that vanish, over all corruptions",
                "ratio",
                against="in_view",
            ),
            *(
                Metric(
                    f"ap50_{name}",
                    f"by_{name}",
                    f"Average precision at an overlap of 0.5 under {name.replace('_', ' ')}",
                    "precision",
                    at=0.5,
                )
                for name in _NAMES
            ),
        ),
        curves=(
            Curve(
                "ap50",
                "Average precision over the severity of the corruptions",
                "severity",
                unattacked="clean_ap50",
            ),
            Curve("vanish_rate", "Objects that vanish over the severity of the corruptions", "severity", unattacked=""),
        ),
        references=(
            "Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261",
            "Michaelis et al. 2019 (detectors), https://arxiv.org/abs/1907.07484",
        ),
        presets={
            "smoke": {
                "corruptions": "gaussian_noise, motion_blur, fog, contrast, pixelate, jpeg",
                "severities": "3",
            },
            "standard": {},
            "full": {"severities": "1, 2, 3, 4, 5"},
        },
    )

    corruptions: _Names = _NAMES
    severities: Severities = (1, 3, 5)
    gallery: Annotated[int, Field(ge=0)] = 8

    def run(self, detector: Detector, samples: Samples, ctx: Context) -> Findings:
        """Ask the deployed detector about every image in every variant, one variant after the other."""
        variants = self._variants(samples)
        matches: dict[str, Matches] = {
            "clean": match_objects(ctx.shelf.get(CLEAN_DETECTIONS), objects_of(samples)),
            **{f"by_{name}": pooled([]) for name in _NAMES if name not in {variant.name for variant in variants}},
        }
        in_view, lost = [], []
        for variant in variants:
            seen = look(detector, samples, variant.way(ctx).distort, ctx)
            matches[f"by_{variant.name}@{variant.severity}"] = match_objects(seen.found, seen.objects)
            in_view.append(seen.in_view)
            lost.append(seen.lost)
        columns: dict[str, npt.NDArray[Any]] = {}
        for severity in self.severities:
            own = [at for at, variant in enumerate(variants) if variant.severity == severity]
            matches[f"corrupted@{severity}"] = pooled([matches[f"by_{variants[at].name}@{severity}"] for at in own])
            columns[f"in_view@{severity}"] = np.mean([in_view[at] for at in own], axis=0)
            columns[f"vanished@{severity}"] = np.mean([lost[at] for at in own], axis=0)
        ctx.progress(len(samples))
        passes = np.full(len(samples), 1 + len(variants), dtype=np.int64)
        ways = [variant.way(ctx) for variant in variants]
        exhibits = hardest(detector, samples, ways, np.stack(lost, 1), self.gallery, ctx)
        return Findings(columns, exhibits, forwards=passes, backwards=np.zeros_like(passes), matches=matches)

    def _variants(self, samples: Samples) -> tuple[_Variant, ...]:
        has_colour = samples.images.shape[1] == _COLOURS
        names = [name for name in self.corruptions if has_colour or name not in NEEDS_COLOUR]
        if not names:
            raise ExecutionError(f"{', '.join(self.corruptions)} needs images in colour; these are grey")
        return tuple(_Variant(name, severity) for name in names for severity in self.severities)


def _corrupted(variant: _Variant, ctx: Context, images: Tensor, ids: tuple[str, ...]) -> tuple[Tensor, Sources | None]:
    # The same draws at every severity: a curve then compares severities, not luck.
    streams = ctx.streams(ids, variant.name)

    def corrupt(pictures: Tensor) -> Tensor:
        return DISTORTIONS[variant.name](pictures, variant.severity, streams)

    return corrupt(images), traced(images, corrupt) if variant.name in CARRIED else None
