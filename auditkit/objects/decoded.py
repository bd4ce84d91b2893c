"""A detector's network with what comes before and after it: images in, candidates out."""

from __future__ import annotations

from torch import Tensor, nn

from auditkit.models.preprocess import Preprocessed, Preprocessing
from auditkit.objects.detections import Candidates
from auditkit.objects.outputs import Decoder

__all__ = ["Decoded", "Surest"]


class Decoded(Preprocessed):
    """A network with its preprocessing in front and its decoder behind: images to packed candidates."""

    def __init__(self, network: nn.Module, steps: Preprocessing, decoder: Decoder) -> None:
        super().__init__(network, steps)
        self.decoder = decoder

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 (N, M, 4 + K) for images (N, C, H, W) in [0, 1], see `Candidates`."""
        height, width = images.shape[2:]
        return self.decoder(self.network(self.steps.inputs(images)), (height, width))


class Surest(Decoded):
    """The same, asked only how sure each candidate is: what copies of the network are compared by."""

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 (N, M), the score of each candidate's best class."""
        return Candidates(super().forward(images)).scores.amax(2)
