"""A trained detector of objects: what is deployed gives the verdicts, a torch copy the gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from auditkit.errors import ExecutionError
from auditkit.models.base import Batching, Capability, Differentiable, ModelInfo
from auditkit.objects.detections import Candidates, Detections, Suppression, join_detections
from auditkit.objects.outputs import Decoder

__all__ = ["Detector"]


@dataclass(frozen=True)
class Detector:
    """A trained detector: images to boxes with scores and classes."""

    info: ModelInfo
    deployed: Callable[[Tensor], Tensor]
    """Images (N, C, H, W) in [0, 1] to packed candidates (N, M, 4 + K), see `Candidates`, without gradients; M may
    differ from one batch to the next."""
    device: torch.device
    exact: Differentiable | None
    """The same in torch, float32; what it returns is packed candidates, not logits."""
    no_gradients: str | None
    """Why there is no `exact`."""
    gradient_source: str
    decoder: Decoder
    """How what the network returns is read."""
    suppression: Suppression
    score: float
    """What is as sure as this counts as found; average precision looks at less sure ones, too."""
    batching: Batching = field(default_factory=Batching)
    batch: int = 128
    no_activations: str = "those of detectors are not tapped"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the detector was seen to be able to do."""
        return frozenset({Capability.BOXES, *([Capability.GRADIENTS] if self.exact is not None else [])})

    def in_batches_of(self, batch: int) -> Detector:
        """Return the same detector, asked with at most so many images at once."""
        exact = self.exact if self.exact is None else replace(self.exact, batch=batch)
        return replace(self, batch=batch, exact=exact)

    def detect(self, images: Tensor) -> Detections:
        """Return what the deployed detector reports in images (N, C, H, W) in [0, 1].

        Raises:
            ExecutionError: it did not return one row of candidates an image, or numbers that are not finite.
        """
        if not len(images):
            return self.suppression(Candidates(images.new_zeros(0, 1, 4 + self.info.classes)))
        parts = []
        size = self.batching.chunk(self.batch)
        with torch.no_grad():
            for at in range(0, len(images), size):
                some = images[at : at + size]
                filled = self.batching.fill(some)
                packed = self.deployed(filled)
                if len(packed) != len(filled):
                    raise ExecutionError(
                        f"{self.info.name}: wanted candidates for {len(filled)} images, got {len(packed)}"
                    )
                if not bool(packed.isfinite().all()):
                    raise ExecutionError(f"{self.info.name}: a box or a score is not finite for images in [0, 1]")
                parts.append(self.suppression(Candidates(self.batching.pick(packed, len(some)))))
        return join_detections(parts)
