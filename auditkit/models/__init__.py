"""One interface over every model file."""

from __future__ import annotations

from auditkit.models.base import Batching, Capability, Differentiable, Model, ModelInfo

__all__ = ["Batching", "Capability", "Differentiable", "Model", "ModelInfo"]
