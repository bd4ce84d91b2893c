"""One map for each image that says what its class hangs on, by whichever method; never negative."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from auditkit import (
    QUICK_LOGITS,
    Context,
    CoverSweep,
    Model,
    Samples,
    Windows,
    pixel_map,
)
from auditkit_plugins.attribution.methods import MethodName, method

__all__ = ["Relevance", "RelevanceMethod", "relevance"]

RelevanceMethod = Literal["occlusion"] | MethodName

_TITLES: Mapping[MethodName, str] = MappingProxyType(
    {
        "saliency": "saliency",
        "smoothgrad": "SmoothGrad",
        "integrated": "integrated gradients",
        "gradcam": "Grad-CAM",
    }
)


@dataclass(frozen=True)
class Relevance:
    """The maps of N images."""

    maps: Tensor
    """(N, H, W), not negative, of any scale."""
    name: str
    """What the map is called in the gallery."""
    forwards: int
    """Passes that each map cost."""
    backwards: int


def relevance(name: RelevanceMethod, model: Model, samples: Samples, classes: Tensor, ctx: Context) -> Relevance:
    """Return maps for `classes`, int64 (N,), of all samples of a shard.

    Without gradients it is occlusion, whatever was asked for.
    """
    if name == "occlusion" or model.exact is None:
        return _occlusion(samples, classes, ctx)
    chosen = method(name, model.exact, samples.images)
    maps = chosen.maps(model.exact, samples.images, classes, ctx.streams(samples.ids, name))
    return Relevance(maps, _TITLES[name], chosen.forwards, chosen.backwards)


def _occlusion(samples: Samples, classes: Tensor, ctx: Context) -> Relevance:
    """Return how much of the score is lost under a window, as the mean over the windows that cover a pixel."""
    windows = Windows.standard(*samples.images.shape[2:])
    covered = ctx.shelf.get(CoverSweep(windows, pause=ctx.check_time).artifact)
    clean = ctx.shelf.get(QUICK_LOGITS)
    chosen = classes.view(-1, 1, 1).expand(-1, len(windows), 1)
    lost = clean.gather(1, classes.unsqueeze(1)) - covered.gather(2, chosen).squeeze(2)
    return Relevance(pixel_map(lost, windows).clamp_min(0), "occlusion", 1 + len(windows), 0)
