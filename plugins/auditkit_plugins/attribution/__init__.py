"""Maps of what a model looks at: pure functions over images and classes, one method a file."""

from __future__ import annotations

from auditkit_plugins.attribution.grad_cam import grad_cam
from auditkit_plugins.attribution.integrated_gradients import (
    Baseline,
    Integrated,
    baseline_images,
    integrated_gradients,
)
from auditkit_plugins.attribution.layers import Layer, find_layer
from auditkit_plugins.attribution.smoothgrad import Smoothed, smoothgrad

__all__ = [
    "Baseline",
    "Integrated",
    "Layer",
    "Smoothed",
    "baseline_images",
    "find_layer",
    "grad_cam",
    "integrated_gradients",
    "smoothgrad",
]
