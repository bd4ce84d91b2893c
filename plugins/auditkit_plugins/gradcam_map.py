"""Grad-CAM: which parts of the image speak for the decision, as the network's last maps see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from auditkit import CLEAN_LOGITS, Capability, Context, Findings, Metric, Model, Samples, Spec
from auditkit_plugins.attribution import find_layer, grad_cam
from auditkit_plugins.attribution.findings import MAP_METRICS, Gallery, MapView, Share, parts

__all__ = ["GradCam"]


@dataclass(frozen=True)
class GradCam:
    """Activations of a late layer, weighted by how much they raise the predicted class's unnormalised score."""

    spec: ClassVar[Spec] = Spec(
        id="explain.gradcam",
        title="In every image something speaks for the decision",
        why=(
            "Late layers of a network see shapes, not pixels. Grad-CAM shows where in the image they found what speaks "
            "for the decision: coarser than a map of pixels, and easier to read. A map beside the object says that "
            "the surroundings decided."
        ),
        metrics=(
            *MAP_METRICS,
            Metric("peak", "peak", "Largest value of a map, in units of the score", "mean", among="responds"),
        ),
        needs=frozenset({Capability.GRADIENTS}),
        references=("Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391",),
        presets={"standard": {}, "full": {}},
    )

    layer: str | None = None
    """The name of a module; none: the last layer that lies on the image."""
    top: Share = 0.1
    """The share of the pixels that `concentration` looks at."""
    gallery: Gallery = 8

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Map every image; show the most confident mistakes first."""
        assert model.exact is not None  # noqa: S101 (declared in the spec)
        predicted = ctx.shelf.get(CLEAN_LOGITS).argmax(1)
        layer = find_layer(model.exact, samples.images, self.layer)
        maps = torch.cat(
            [grad_cam(model.exact, images, predicted[part], layer) for images, _, part in parts(samples, ctx)]
        )
        view = MapView("Grad-CAM", samples, ctx, maps, f"; layer: {layer.name}")
        peak = maps.amax((1, 2)).double().cpu().numpy()
        return view.findings(self.top, self.gallery, (2, 1), peak=peak)
