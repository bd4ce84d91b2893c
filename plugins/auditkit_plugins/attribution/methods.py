"""The methods by name, each with its usual options, behind one signature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

from auditkit import Differentiable, Streams, saliency
from auditkit_plugins.attribution.grad_cam import grad_cam
from auditkit_plugins.attribution.integrated_gradients import integrated_gradients
from auditkit_plugins.attribution.layers import find_layer
from auditkit_plugins.attribution.smoothgrad import smoothgrad

__all__ = ["Method", "MethodName", "method"]

MethodName = Literal["saliency", "smoothgrad", "integrated", "gradcam"]
_Maps: TypeAlias = Callable[[Differentiable, Tensor, Tensor, Streams], Tensor]

_DRAWS = 25
_STEPS = 32


@dataclass(frozen=True)
class Method:
    """A method, and what it costs."""

    maps: _Maps
    """A model, images (N, C, H, W), classes (N,) and a stream an image to maps float32 (N, H, W), not negative."""
    forwards: int
    """Passes an image."""
    backwards: int


def method(name: MethodName, model: Differentiable, like: Tensor) -> Method:
    """Return a method for `model` and its copies: Grad-CAM looks at the same layer of all of them.

    `like` are images (N, C, H, W); their size and device count, not what they show.

    Raises:
        ExecutionError: there is no layer that Grad-CAM could look at.
    """
    match name:
        case "saliency":
            return Method(lambda model, images, classes, streams: saliency(model, images, classes), 1, 1)
        case "smoothgrad":
            return Method(
                lambda model, images, classes, streams: smoothgrad(model, images, classes, streams, _DRAWS).maps,
                _DRAWS,
                _DRAWS,
            )
        case "integrated":
            return Method(
                lambda model, images, classes, streams: (
                    integrated_gradients(model, images, classes, _STEPS, "blur").maps
                ),
                _STEPS + 2,
                _STEPS,
            )
        case "gradcam":
            layer = find_layer(model, like)
            return Method(lambda model, images, classes, streams: grad_cam(model, images, classes, layer), 1, 1)
