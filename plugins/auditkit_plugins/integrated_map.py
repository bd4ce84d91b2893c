"""Integrated gradients: what each pixel contributes to the decision, so that the contributions add up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from auditkit import CLEAN_LOGITS, Capability, Context, Findings, FlagRule, Metric, Model, Samples, Spec
from auditkit_plugins.attribution import Baseline, integrated_gradients
from auditkit_plugins.attribution.findings import MAP_METRICS, Gallery, MapView, Share, parts

__all__ = ["IntegratedGradients"]


@dataclass(frozen=True)
class IntegratedGradients:
    """Gradients along the line from a baseline to the image, so that the pixels share out the change of the score."""

    spec: ClassVar[Spec] = Spec(
        id="explain.integrated",
        title="The contributions of the pixels add up to the score that they explain",
        why=(
            "A gradient says what would happen if a pixel changed a little. It may be zero where the model is sure, "
            "although the pixel matters. Integrated gradients share out the whole change of the score between an "
            "image in which nothing is to be seen and this one: each pixel gets a part, and the parts add up."
        ),
        metrics=(
            *MAP_METRICS,
            Metric(
                "residual",
                "residual",
                "How far the contributions miss the change of the score, as a share of it",
                "median",
                among="responds",
            ),
        ),
        needs=frozenset({Capability.GRADIENTS}),
        flags=(
            FlagRule(
                "explain.residual",
                "residual",
                above=0.1,
                text="The contributions do not add up to the change of the score: the line from the baseline to the "
                "image has more kinks than there are points on it.",
                remedy="Raise the steps of explain.integrated until this flag goes down.",
            ),
        ),
        references=("Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365",),
        presets={"full": {"steps": 64}},
    )

    steps: Annotated[int, Field(ge=1)] = 32
    """Points on the line from the baseline to the image."""
    baseline: Baseline = "black"
    """Where the line begins: an image in which nothing is to be seen."""
    top: Share = 0.1
    """The share of the pixels that `concentration` looks at."""
    gallery: Gallery = 8

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Map every image; show the most confident mistakes first."""
        assert model.exact is not None  # noqa: S101 (declared in the spec)
        predicted = ctx.shelf.get(CLEAN_LOGITS).argmax(1)
        integrated = [
            integrated_gradients(model.exact, images, predicted[part], self.steps, self.baseline)
            for images, _, part in parts(samples, ctx)
        ]
        maps = torch.cat([one.maps for one in integrated])
        view = MapView("integrated gradients", samples, ctx, maps, f"; baseline: {self.baseline}")
        residual = torch.cat([one.residual for one in integrated]).cpu().numpy()
        # The score of the image and that of the baseline are asked for beside the gradients.
        return view.findings(self.top, self.gallery, (3 + self.steps, self.steps), residual=residual)
