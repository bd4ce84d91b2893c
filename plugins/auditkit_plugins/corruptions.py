"""Natural corruptions at five severities: noise, blur, weather and processing that nobody aimed at the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from auditkit import (
    CLEAN_LOGITS,
    Context,
    Curve,
    ExecutionError,
    Exhibit,
    Findings,
    Metric,
    Model,
    Samples,
    Spec,
    image_panel,
)
from auditkit_plugins.distortions import DISTORTIONS, NEEDS_COLOUR, DistortionName
from auditkit_plugins.levels import SEVERITIES, Severities
from auditkit_plugins.listed import listed

__all__ = ["Corruptions"]

_COLOURS = 3


_Names = Annotated[
    tuple[DistortionName, ...],
    BeforeValidator(listed),
    Field(min_length=1),
    AfterValidator(lambda names: tuple(dict.fromkeys(names))),
]


@dataclass(frozen=True)
class _Variant:
    """One way in which every image is corrupted."""

    name: DistortionName
    severity: int


@dataclass(frozen=True)
class _Answers:
    """What the deployed model says to N images in V variants: classes int64 (N, V), confidences float64 (N, V)."""

    classes: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Corruptions:
    """Corrupt every image in the ways of ImageNet-C, and count which ones are still recognised."""

    spec: ClassVar[Spec] = Spec(
        id="noise.corruptions",
        title="Predictions withstand the weather, the sensor and the file format",
        why=(
            "Cameras meet fog, blur, noise and compression every day, and no attacker at all. A model that loses many "
            "images at severity 1 or 2 will lose them in service. Corruptions differ: what withstands blur may fail "
            "in noise, so look at each before you trust the mean."
        ),
        metrics=(
            Metric(
                "mean_accuracy", "share_correct_overall", "Mean accuracy over all corruptions and severities", "mean"
            ),
            Metric("accuracy", "share_correct", "Mean accuracy over the corruptions", "mean"),
            Metric("worst_case_accuracy", "survives", "Correct when clean and under every corruption"),
            Metric("clean_accuracy", "clean_correct", "Correct on the clean images"),
            *(
                Metric(
                    f"accuracy_{name}",
                    f"correct_{name}",
                    f"Correct under {name.replace('_', ' ')}",
                    among=f"ran_{name}",
                )
                for name in DISTORTIONS
            ),
        ),
        curves=(
            Curve("accuracy", "Mean accuracy over the severity of the corruptions", "severity"),
            Curve("worst_case_accuracy", "Share correct under every corruption over their severity", "severity"),
        ),
        references=("Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261",),
        presets={
            "smoke": {
                "corruptions": "gaussian_noise, motion_blur, fog, contrast, pixelate, jpeg",
                "severities": "3",
            },
            "standard": {},
            "full": {"severities": "1, 2, 3, 4, 5"},
        },
    )

    corruptions: _Names = tuple(DISTORTIONS)
    severities: Severities = (1, 3, 5)
    gallery: Annotated[int, Field(ge=0)] = 8

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Ask the deployed model about every image in every variant."""
        variants = self._variants(samples)
        clean_logits = ctx.shelf.get(CLEAN_LOGITS)
        clean_correct = clean_logits.argmax(1) == samples.labels
        answers = _ask(variants, model, samples, ctx)
        correct = answers.classes == samples.labels.unsqueeze(1)
        return Findings(
            columns=_columns(variants, correct, clean_correct),
            exhibits=self._exhibits(variants, answers, correct, clean_correct, samples, ctx),
            forwards=np.full(len(samples), 1 + len(variants), dtype=np.int64),
            backwards=np.zeros(len(samples), dtype=np.int64),
        )

    def _variants(self, samples: Samples) -> tuple[_Variant, ...]:
        has_colour = samples.images.shape[1] == _COLOURS
        names = [name for name in self.corruptions if has_colour or name not in NEEDS_COLOUR]
        if not names:
            raise ExecutionError(f"{', '.join(self.corruptions)} needs images in colour; these are grey")
        return tuple(_Variant(name, severity) for name in names for severity in self.severities)

    def _exhibits(
        self,
        variants: tuple[_Variant, ...],
        answers: _Answers,
        correct: Tensor,
        clean_correct: Tensor,
        samples: Samples,
        ctx: Context,
    ) -> tuple[Exhibit, ...]:
        """Show the images that the mildest corruptions turn into the most confident mistakes."""
        milder = torch.tensor([SEVERITIES[-1] - variant.severity for variant in variants], device=correct.device)
        scores = torch.where(correct, torch.zeros_like(answers.confidence), answers.confidence + milder)
        best, at = scores.max(1)
        best = torch.where(clean_correct, best, torch.zeros_like(best))
        failed = best.nonzero().flatten().tolist()
        ranked = sorted(failed, key=lambda row: (-float(best[row]), samples.ids[row]))
        return tuple(
            _exhibit(row, variants[int(at[row])], float(best[row]), answers, int(at[row]), samples, ctx)
            for row in ranked[: self.gallery]
        )


def _corrupted(variant: _Variant, images: Tensor, ids: tuple[str, ...], ctx: Context) -> Tensor:
    # The same draws at every severity: a curve then compares severities, not luck.
    return DISTORTIONS[variant.name](images, variant.severity, ctx.streams(ids, variant.name))


def _ask(variants: tuple[_Variant, ...], model: Model, samples: Samples, ctx: Context) -> _Answers:
    classes, confidence = [], []
    for start in range(0, len(samples), ctx.batch):
        part = slice(start, start + ctx.batch)
        images, ids = samples.images[part], samples.ids[part]
        said = []
        for variant in variants:
            ctx.check_time()
            logits = model.logits(_corrupted(variant, images, ids, ctx))
            said.append(torch.softmax(logits.double(), 1).max(1))
        confidence.append(torch.stack([values for values, _ in said], 1))
        classes.append(torch.stack([labels for _, labels in said], 1))
        ctx.progress(len(images))
    return _Answers(torch.cat(classes), torch.cat(confidence))


def _columns(variants: tuple[_Variant, ...], correct: Tensor, clean_correct: Tensor) -> Mapping[str, npt.NDArray[Any]]:
    n = len(correct)
    ran = {variant.name for variant in variants}
    columns: dict[str, Tensor] = {"clean_correct": clean_correct, "share_correct_overall": correct.double().mean(1)}
    for severity in sorted({variant.severity for variant in variants}):
        same = correct[:, [at for at, variant in enumerate(variants) if variant.severity == severity]]
        columns[f"share_correct@{severity}"] = same.double().mean(1)
        columns[f"survives@{severity}"] = same.all(1) & clean_correct
    for name in DISTORTIONS:
        columns[f"ran_{name}"] = torch.full((n,), name in ran)
        if name not in ran:
            columns[f"correct_{name}"] = torch.zeros(n, dtype=torch.bool)
    for at, variant in enumerate(variants):
        columns[f"correct_{variant.name}@{variant.severity}"] = correct[:, at]
    return {name: column.cpu().numpy() for name, column in columns.items()}


def _exhibit(
    row: int, variant: _Variant, score: float, answers: _Answers, at: int, samples: Samples, ctx: Context
) -> Exhibit:
    image, sample = samples.images[row : row + 1], samples.ids[row]
    corrupted = _corrupted(variant, image, (sample,), ctx)[0]
    true, taken = ctx.class_name(int(samples.labels[row])), ctx.class_name(int(answers.classes[row, at]))
    words = variant.name.replace("_", " ")
    panels = (image_panel(f"clean: {true}", image[0]), image_panel(f"{words}: {taken}", corrupted))
    confidence = float(answers.confidence[row, at])
    caption = (
        f"{true} is taken for {taken} under {words} of severity {variant.severity}, with {confidence:.1%} confidence"
    )
    return Exhibit(sample, caption, score, panels)
