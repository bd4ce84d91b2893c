"""One interface over every model file: verdicts from the model as deployed, gradients where they can be had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from auditkit.errors import ExecutionError
from auditkit.models.labels import are_labels, scores_from_labels
from auditkit.models.preprocess import Preprocessed

if TYPE_CHECKING:
    from auditkit.models.taps import ActivationSite

__all__ = ["Batching", "Capability", "Differentiable", "Model", "ModelInfo"]


class Capability(Enum):
    """What a model can be asked for beyond the class of an image; claimed only after it was tried on an image."""

    GRADIENTS = "gradients"
    SCORES = "scores"
    """A score a class; without it `Model.logits` is 1 for the class that the model names and 0 for the others."""
    ACTIVATIONS = "activations"
    """What its activation functions return, at each of `Model.sites`."""
    BOXES = "boxes"
    """Boxes around objects, with scores and classes: it is a detector, see `auditkit.objects`."""


@dataclass(frozen=True)
class ModelInfo:
    """What a model file is."""

    name: str
    format: str
    digest: str
    classes: int
    input_shape: tuple[int | None, int | None, int | None]
    """Channels, height, width; None where the network takes any."""
    provider: str
    """What computes the verdicts: torch, or the onnxruntime execution provider really used."""
    preprocessing: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Batching:
    """Which batches keep a row's result independent of the other rows.

    Kernels for a few rows, or for the last few of an uneven number, often round differently from those for many: a
    batch is filled up to a multiple of `minimum` (no vector register is wider) with copies of its first row. `fixed`
    is for backends where even that is not enough, or that take one size only. Where rows are so many bytes long that
    they begin at different places of a vector register, each is computed `copies` times and the first result is taken.
    """

    minimum: int = 16
    fixed: int | None = None
    copies: int = 1

    def padded(self, rows: int) -> int:
        """Return the number of rows to really compute for a batch of `rows`."""
        computed = rows * self.copies
        return self.fixed if self.fixed is not None else -(-computed // self.minimum) * self.minimum

    def chunk(self, batch: int) -> int:
        """Return the largest number of rows to compute at once when `batch` was asked for."""
        return max(1, (self.fixed if self.fixed is not None else batch) // self.copies)

    def fill(self, tensor: Tensor) -> Tensor:
        """Return the rows to really compute for those of `tensor` (N, ...)."""
        rows = tensor.repeat_interleave(self.copies, 0) if self.copies > 1 else tensor
        missing = self.padded(len(tensor)) - len(rows)
        return rows if missing <= 0 else torch.cat([rows, tensor[:1].expand(missing, *tensor.shape[1:])])

    def pick(self, computed: Tensor, rows: int) -> Tensor:
        """Return (rows, ...), what was computed for the rows that `fill` was given."""
        return computed[: rows * self.copies : self.copies]


def _parts(images: Tensor, rows: int) -> list[Tensor]:
    return [images[at : at + rows] for at in range(0, len(images), rows)]


@dataclass(frozen=True)
class Differentiable:
    """A frozen torch copy of the model that gives logits and gradients with respect to the images."""

    network: Preprocessed
    description: str
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format
    batching: Batching = field(default_factory=Batching)
    batch: int = 128
    before_softmax: Preprocessed | None = None
    """The same network without the softmax that it ends in; None where it ends in none, or none is known."""

    @property
    def unnormalised(self) -> Differentiable:
        """The same model before its softmax, for explanations: a probability also depends on all other classes."""
        if self.before_softmax is None:
            return self
        return replace(self, network=self.before_softmax, before_softmax=None)

    def logits(self, images: Tensor) -> Tensor:
        """Return float32 (N, K) for images (N, C, H, W) in [0, 1]."""
        with torch.no_grad():
            return self.in_batches(self.forward, images)

    def in_batches(self, compute: Callable[..., Tensor], images: Tensor, *aligned: Tensor) -> Tensor:
        """Return what `compute(images, *aligned)` returns, a row an image, in batches that keep rows independent.

        It is called with some of the images and some more that only fill the batch; the tensors `aligned` have one row
        an image, too.
        """
        size = self.batching.chunk(self.batch)
        parts = []
        for at in range(0, len(images), size):
            given = [tensor[at : at + size] for tensor in (images, *aligned)]
            computed = compute(*(self.batching.fill(tensor) for tensor in given))
            parts.append(self.batching.pick(computed, len(given[0])))
        return torch.cat(parts)

    def gradient(self, images: Tensor, loss: Callable[..., Tensor], *aligned: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, K) and the gradient (N, C, H, W) of each image's own loss.

        `loss(logits, *aligned)` returns (N,); the tensors `aligned` have one row an image (labels, say).
        """
        size = self.batching.chunk(self.batch)
        parts = [
            self._gradient(images[at : at + size], loss, *(tensor[at : at + size] for tensor in aligned))
            for at in range(0, len(images), size)
        ]
        return torch.cat([logits for logits, _ in parts]), torch.cat([gradient for _, gradient in parts])

    def _gradient(self, images: Tensor, loss: Callable[..., Tensor], *aligned: Tensor) -> tuple[Tensor, Tensor]:
        rows, batching = len(images), self.batching
        with torch.enable_grad():
            leaf = batching.fill(images.detach()).requires_grad_(True)
            logits = self.forward(leaf)
            losses = loss(logits, *(batching.fill(tensor) for tensor in aligned))
            # The rows that only fill the batch get no weight, and a sum (not a mean) keeps rows independent.
            (gradient,) = torch.autograd.grad(batching.pick(losses, rows).sum(), leaf)
        return batching.pick(logits.detach(), rows), batching.pick(gradient, rows)

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 (N, K) for exactly these rows, with gradients where they are enabled; see `in_batches`."""
        logits: Tensor = self.network(images.to(dtype=self.dtype, memory_format=self.memory_format))
        return logits.float()


@dataclass(frozen=True)
class Model:
    """A trained classifier: what is deployed gives the verdicts; `exact` differentiates it in float32."""

    info: ModelInfo
    deployed: Callable[[Tensor], Tensor]
    """Images (N, C, H, W) in [0, 1] to scores (N, K), in the model's own precision, without gradients."""
    device: torch.device
    exact: Differentiable | None
    no_gradients: str | None
    """Why there is no `exact`."""
    gradient_source: str
    batching: Batching = field(default_factory=Batching)
    batch: int = 128
    label_classes: int | None = None
    """Of how many classes a model that gives labels only chooses; None: it gives scores."""
    quick: Differentiable | None = None
    """A copy whose scores are those of the deployed model but for rounding, and come sooner; None: there is none."""
    sites: tuple[ActivationSite, ...] = ()
    """Where `exact` computes activations, in order of execution."""
    watched: Differentiable | None = None
    """The copy to take activations from: at `sites` they are those of `exact` but for rounding, and come sooner."""
    no_activations: str | None = None
    """Why there are no `sites`, where there is an `exact`."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What the model was seen to be able to do."""
        had = {
            Capability.GRADIENTS: self.exact is not None,
            Capability.SCORES: self.label_classes is None,
            Capability.ACTIVATIONS: self.exact is not None and bool(self.sites),
        }
        return frozenset(capability for capability, is_had in had.items() if is_had)

    def in_batches_of(self, batch: int) -> Model:
        """Return the same model, asked with at most so many images at once."""
        exact, quick, watched = (
            copy if copy is None else replace(copy, batch=batch) for copy in (self.exact, self.quick, self.watched)
        )
        return replace(self, batch=batch, exact=exact, quick=quick, watched=watched)

    def logits(self, images: Tensor) -> Tensor:
        """Return the verdict's scores, float32 (N, K), for images (N, C, H, W) in [0, 1].

        Of a model that gives labels only they are 1 for its label and 0 for every other class.

        Raises:
            ExecutionError: the model did not return one row of scores (or one label) an image, or returned none that
                are finite.
        """
        if not len(images):
            return torch.empty(0, self.info.classes, device=self.device)
        return self.scores(self.answers(images))

    def quick_logits(self, images: Tensor) -> Tensor:
        """Return the scores of `logits` but for rounding, from whatever gives them soonest in float32.

        For sweeps of many passes only: a verdict never comes from them.

        Raises:
            ExecutionError: as `logits`.
        """
        if self.quick is None or not len(images):
            return self.logits(images)
        return self.scores(self.quick.logits(images))

    def scores(self, answers: Tensor) -> Tensor:
        """Return float32 (N, K), what `answers` (N, ...) mean; see `logits`."""
        if self.label_classes is not None:
            return scores_from_labels(answers, self.label_classes, self.info.name)
        if answers.dim() != 2:
            raise self._no_scores(answers, len(answers))
        if answers.isnan().any():
            raise ExecutionError(f"{self.info.name}: the model returned NaN scores for images in [0, 1]")
        return answers

    def answers(self, images: Tensor) -> Tensor:
        """Return what the model says about images (N, C, H, W), N at least 1: float32, one row each, of any shape.

        Raises:
            ExecutionError: it did not return one row an image.
        """
        parts: list[Tensor] = []
        with torch.no_grad():
            for part in _parts(images, self.batching.chunk(self.batch)):
                filled = self.batching.fill(part)
                answer = self.deployed(filled)
                if answer.dim() == 0 or len(answer) != len(filled):
                    raise self._no_scores(answer, len(filled))
                parts.append(self.batching.pick(answer, len(part)).float())
        return torch.cat(parts)

    def _no_scores(self, answer: Tensor, images: int) -> ExecutionError:
        remedy = "; if these are labels, add --outputs labels" if are_labels(answer) else ""
        return ExecutionError(
            f"{self.info.name}: a classifier returns (images, classes) scores; "
            f"got {tuple(answer.shape)} for {images} images{remedy}"
        )
