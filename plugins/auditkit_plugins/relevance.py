"""One map for each image that says what its class hangs on, by whichever method; never negative."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from auditkit import (
    QUICK_LOGITS,
    Context,
    CoverSweep,
    Differentiable,
    Model,
    Samples,
    Windows,
    pixel_map,
    saliency,
)
from auditkit_plugins.attribution import grad_cam, integrated_gradients, smoothgrad

__all__ = ["Method", "Relevance", "relevance"]

Method = Literal["occlusion", "gradient", "smoothgrad", "integrated", "gradcam"]

_DRAWS = 25
_NODES = 32


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


def relevance(method: Method, model: Model, samples: Samples, classes: Tensor, ctx: Context) -> Relevance:
    """Return maps for `classes`, int64 (N,), of all samples of a shard.

    Without gradients it is occlusion, whatever was asked for.
    """
    if method == "occlusion" or model.exact is None:
        return _occlusion(samples, classes, ctx)
    return _METHODS[method](model.exact, samples, classes, ctx)


def _occlusion(samples: Samples, classes: Tensor, ctx: Context) -> Relevance:
    """Return how much of the score is lost under a window, as the mean over the windows that cover a pixel."""
    windows = Windows.standard(*samples.images.shape[2:])
    covered = ctx.shelf.get(CoverSweep(windows, pause=ctx.check_time).artifact)
    clean = ctx.shelf.get(QUICK_LOGITS)
    chosen = classes.view(-1, 1, 1).expand(-1, len(windows), 1)
    lost = clean.gather(1, classes.unsqueeze(1)) - covered.gather(2, chosen).squeeze(2)
    return Relevance(pixel_map(lost, windows).clamp_min(0), "occlusion", 1 + len(windows), 0)


def _gradient(model: Differentiable, samples: Samples, classes: Tensor, ctx: Context) -> Relevance:
    return Relevance(saliency(model, samples.images, classes), "saliency", 1, 1)


def _smoothgrad(model: Differentiable, samples: Samples, classes: Tensor, ctx: Context) -> Relevance:
    streams = ctx.streams(samples.ids, "smoothgrad")
    return Relevance(smoothgrad(model, samples.images, classes, streams, _DRAWS).maps, "SmoothGrad", _DRAWS, _DRAWS)


def _integrated(model: Differentiable, samples: Samples, classes: Tensor, ctx: Context) -> Relevance:
    maps = integrated_gradients(model, samples.images, classes, _NODES, "blur").maps
    return Relevance(maps, "integrated gradients", _NODES + 2, _NODES)


def _gradcam(model: Differentiable, samples: Samples, classes: Tensor, ctx: Context) -> Relevance:
    return Relevance(grad_cam(model, samples.images, classes), "Grad-CAM", 1, 1)


_METHODS: Mapping[str, Callable[[Differentiable, Samples, Tensor, Context], Relevance]] = MappingProxyType(
    {"gradient": _gradient, "smoothgrad": _smoothgrad, "integrated": _integrated, "gradcam": _gradcam}
)
