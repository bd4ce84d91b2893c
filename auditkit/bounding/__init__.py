"""Bounded activations: the unit itself, networks that are given bounds, and how to choose and train them."""

from __future__ import annotations

from auditkit.bounding.activation import BoundedLeakyReLU, Overflow, UpperBound, bounded_above, bounded_leaky_relu
from auditkit.bounding.bounded_copy import Bound, BoundedNetwork, bounded_copy
from auditkit.bounding.bounded_model import bounded_differentiable, bounded_model
from auditkit.bounding.calibrate import QUANTILES, Quantiles, activation_quantiles
from auditkit.bounding.finetune import fine_tune
from auditkit.bounding.onnx_surgery import BoundedOnnx, bounded_onnx, find_onnx_sites, onnx_twin_with_sites
from auditkit.bounding.save import save_bounded, save_bounded_onnx
from auditkit.bounding.sites import NothingToBound, Site
from auditkit.bounding.straight_through import StraightThrough, straight_through
from auditkit.bounding.surgery import Rebuilt, find_sites, with_modules_at_sites
from auditkit.bounding.train import train_bounds

__all__ = [
    "QUANTILES",
    "Bound",
    "BoundedLeakyReLU",
    "BoundedNetwork",
    "BoundedOnnx",
    "NothingToBound",
    "Overflow",
    "Quantiles",
    "Rebuilt",
    "Site",
    "StraightThrough",
    "UpperBound",
    "activation_quantiles",
    "bounded_above",
    "bounded_copy",
    "bounded_differentiable",
    "bounded_leaky_relu",
    "bounded_model",
    "bounded_onnx",
    "find_onnx_sites",
    "find_sites",
    "fine_tune",
    "onnx_twin_with_sites",
    "save_bounded",
    "save_bounded_onnx",
    "straight_through",
    "train_bounds",
    "with_modules_at_sites",
]
