"""SmoothGrad: which pixels the model's decision hangs on, without the flicker of a single gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from auditkit import CLEAN_LOGITS, Capability, Context, Findings, Metric, Model, Samples, Spec
from auditkit_plugins.attribution import smoothgrad
from auditkit_plugins.attribution.findings import MAP_METRICS, Gallery, MapView, Share, parts

__all__ = ["SmoothGrad"]


@dataclass(frozen=True)
class SmoothGrad:
    """The mean gradient of the predicted class's unnormalised score over noisy copies of an image."""

    spec: ClassVar[Spec] = Spec(
        id="explain.smoothgrad",
        title="The model looks at a part of the image also when the image is noisy",
        why=(
            "A single gradient flickers: two images that nobody can tell apart may have maps that have little in "
            "common. The mean over noisy copies keeps what they share, and so shows more clearly what the model "
            "looks at. Where even the mean of many copies is not steady, the map is noise and explains nothing."
        ),
        metrics=(
            *MAP_METRICS,
            Metric(
                "steadiness",
                "steadiness",
                "Cosine between the mean gradients of two halves of the noisy copies",
                "mean",
                among="responds",
            ),
        ),
        needs=frozenset({Capability.GRADIENTS}),
        references=("Smilkov et al. 2017, https://arxiv.org/abs/1706.03825",),
        presets={"full": {"draws": 50}},
    )

    draws: Annotated[int, Field(ge=2)] = 25
    """Noisy copies of each image."""
    sigma: Annotated[float, Field(ge=0, le=1)] = 0.15
    """The standard deviation of the noise, as a share of the image's own range."""
    top: Share = 0.1
    """The share of the pixels that `concentration` looks at."""
    gallery: Gallery = 8

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Map every image; show the most confident mistakes first."""
        assert model.exact is not None  # noqa: S101 (declared in the spec)
        predicted = ctx.shelf.get(CLEAN_LOGITS).argmax(1)
        smoothed = [
            smoothgrad(model.exact, images, predicted[part], ctx.streams(ids), self.draws, self.sigma)
            for images, ids, part in parts(samples, ctx)
        ]
        view = MapView("SmoothGrad", samples, ctx, torch.cat([one.maps for one in smoothed]))
        steadiness = torch.cat([one.steadiness for one in smoothed]).cpu().numpy()
        return view.findings(self.top, self.gallery, (1 + self.draws, self.draws), steadiness=steadiness)
