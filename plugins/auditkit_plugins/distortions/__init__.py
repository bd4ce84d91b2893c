"""Natural corruptions of images: pure functions over batches, one family a file.

Definitions and severities are those of Hendrycks and Dietterich 2019, written anew in torch: the libraries that have
them need OpenCV, scikit-image or torchvision, and draw from a global generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

from torch import Tensor

from auditkit import Streams
from auditkit_plugins.distortions.blur import defocus_blur, gaussian_blur, motion_blur, zoom_blur
from auditkit_plugins.distortions.digital import contrast, elastic, jpeg, pixelate, saturate
from auditkit_plugins.distortions.noise import gaussian_noise, impulse_noise, shot_noise
from auditkit_plugins.distortions.weather import brightness, fog, snow

__all__ = ["DISTORTIONS", "NEEDS_COLOUR", "Distortion", "DistortionName"]

Distortion: TypeAlias = Callable[[Tensor, int, Streams], Tensor]
"""Images (N, C, H, W) in [0, 1], severity 1 to 5 and a random stream an image, to images of that form."""

DistortionName = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "zoom_blur",
    "gaussian_blur",
    "snow",
    "fog",
    "brightness",
    "contrast",
    "saturate",
    "elastic",
    "pixelate",
    "jpeg",
]

DISTORTIONS: Mapping[DistortionName, Distortion] = MappingProxyType(
    {
        "gaussian_noise": gaussian_noise,
        "shot_noise": shot_noise,
        "impulse_noise": impulse_noise,
        "defocus_blur": defocus_blur,
        "motion_blur": motion_blur,
        "zoom_blur": zoom_blur,
        "gaussian_blur": gaussian_blur,
        "snow": snow,
        "fog": fog,
        "brightness": brightness,
        "contrast": contrast,
        "saturate": saturate,
        "elastic": elastic,
        "pixelate": pixelate,
        "jpeg": jpeg,
    }
)

NEEDS_COLOUR: frozenset[DistortionName] = frozenset({"saturate"})
"""What leaves a grey image as it is."""
