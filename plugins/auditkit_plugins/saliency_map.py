"""Gradient saliency: which pixels the model's decision hangs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_LOGITS,
    Capability,
    Context,
    Exhibit,
    Findings,
    Metric,
    Model,
    Samples,
    Spec,
    heat_panel,
    image_panel,
    saliency,
)

__all__ = ["Saliency"]


@dataclass(frozen=True)
class Saliency:
    """The gradient of the predicted class's unnormalised score with respect to the raw pixels."""

    spec: ClassVar[Spec] = Spec(
        id="explain.saliency",
        title="The model looks at a part of the image, and responds to every image",
        why=(
            "A saliency map shows which pixels would move the decision most. It does not prove that the model is "
            "right for the right reasons, but it shows when it is not: a map that lights up beside the object, or "
            "nowhere at all, asks for a closer look before release."
        ),
        metrics=(
            Metric(
                "concentration",
                "concentration",
                "Share of the saliency in the most salient tenth of the pixels",
                "mean",
                among="responds",
            ),
            Metric("responds", "responds", "Images whose saliency is not zero everywhere"),
        ),
        needs=frozenset({Capability.GRADIENTS}),
        references=("Simonyan et al. 2014, https://arxiv.org/abs/1312.6034",),
        presets={"smoke": {}, "standard": {}, "full": {}},
    )

    top: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The share of the pixels that `concentration` looks at."""
    gallery: Annotated[int, Field(ge=0)] = 8

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Map every image; show the most confident mistakes first."""
        assert model.exact is not None  # noqa: S101 (declared in the spec)
        logits = ctx.shelf.get(CLEAN_LOGITS)
        predicted = logits.argmax(1)
        maps = saliency(model.exact, samples.images, predicted)
        concentration, responds = _concentration(maps, self.top)
        ctx.progress(len(samples))
        return Findings(
            columns={
                "concentration": concentration.double().cpu().numpy(),
                "responds": responds.cpu().numpy(),
            },
            exhibits=self._exhibits(samples, logits, predicted, maps, ctx),
            forwards=np.full(len(samples), 2, dtype=np.int64),
            backwards=np.ones(len(samples), dtype=np.int64),
        )

    def _exhibits(
        self, samples: Samples, logits: Tensor, predicted: Tensor, maps: Tensor, ctx: Context
    ) -> tuple[Exhibit, ...]:
        confidence = torch.softmax(logits.double(), 1).amax(1)
        scores = (confidence + (predicted != samples.labels)).tolist()
        ranked = sorted(range(len(samples)), key=lambda row: (-scores[row], samples.ids[row]))
        exhibits = []
        for row in ranked[: self.gallery]:
            true, taken = ctx.class_name(int(samples.labels[row])), ctx.class_name(int(predicted[row]))
            verdict = f"{true}, recognised" if true == taken else f"{true} is taken for {taken}"
            panels = (
                image_panel(f"image: {true}", samples.images[row]),
                heat_panel(f"saliency for {taken}", maps[row]),
            )
            caption = f"{verdict} with {float(confidence[row]):.1%} confidence"
            exhibits.append(Exhibit(samples.ids[row], caption, scores[row], panels))
        return tuple(exhibits)


def _concentration(maps: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Return the share of each map (N, H, W) in its largest pixels, NaN for a zero map, and bool (N,): not zero."""
    flat = maps.flatten(1).double()
    total = flat.sum(1)
    largest = flat.topk(max(1, round(share * flat.shape[1])), dim=1).values.sum(1)
    return largest / total, total > 0
