"""What a camera does to an image: pure functions over batches, each image with parameters of its own.

An image becomes the same to the last bit in any batch: all is elementwise, a gather, or a sum of shifted images.
"""

from __future__ import annotations

from auditkit_plugins.camera.shots import (
    DIFFERENTIABLE,
    DISTORTIONS,
    RANDOM,
    STRENGTHS,
    Distortion,
    DistortionName,
    photographed,
)

__all__ = ["DIFFERENTIABLE", "DISTORTIONS", "RANDOM", "STRENGTHS", "Distortion", "DistortionName", "photographed"]
