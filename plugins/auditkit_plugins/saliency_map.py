"""Gradient saliency: which pixels the model's decision hangs on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from auditkit import CLEAN_LOGITS, Capability, Context, Findings, Model, Samples, Spec, saliency
from auditkit_plugins.attribution.findings import MAP_METRICS, Gallery, MapView, Share

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
        metrics=MAP_METRICS,
        needs=frozenset({Capability.GRADIENTS}),
        references=("Simonyan et al. 2014, https://arxiv.org/abs/1312.6034",),
        presets={"smoke": {}, "standard": {}, "full": {}},
        version=2,
    )

    top: Share = 0.1
    """The share of the pixels that `concentration` looks at."""
    gallery: Gallery = 8

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Map every image; show the most confident mistakes first."""
        assert model.exact is not None  # noqa: S101 (declared in the spec)
        maps = saliency(model.exact, samples.images, ctx.shelf.get(CLEAN_LOGITS).argmax(1))
        ctx.progress(len(samples))
        return MapView("saliency", samples, ctx, maps).findings(self.top, self.gallery, passes=(2, 1))
