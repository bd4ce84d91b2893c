"""Can the gradients be trusted? A model that hides them looks robust and is not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from auditkit import Budgets, Capability, Context, Findings, FlagRule, Metric, Model, Samples, Spec
from auditkit_plugins.pgd import PGD
from auditkit_plugins.random_noise import UniformNoise

__all__ = ["GradientSanity"]

# Scores of the same image that differ by more, relative to their size, come from a randomised model.
_RANDOM_TOLERANCE = 1e-4


@dataclass(frozen=True)
class GradientSanity:
    """Look for zero, missing and misleading gradients, and for a model that answers at random."""

    spec: ClassVar[Spec] = Spec(
        id="sanity.gradients",
        title="Gradients lead to the model's weak points, so gradient attacks mean something",
        why=(
            "Robust accuracy under a gradient attack is evidence only where gradients point to the weakness. "
            "Saturated, quantised or randomised networks give gradients that are zero or misleading: attacks then "
            "fail for that reason and the model merely looks robust (Athalye et al. 2018)."
        ),
        metrics=(
            Metric("zero_gradients", "zero_gradient", "Images whose loss has a zero gradient"),
            Metric("saturated", "saturated", "Images whose cross-entropy is flat while their margin is not"),
            Metric("broken_gradients", "broken_gradient", "Images with NaN or infinite gradients"),
            Metric("random_scores", "random_score", "Images whose scores change from run to run"),
            Metric(
                "noise_beats_gradient",
                "noise_wins",
                "Images that random noise fools and a gradient attack does not",
            ),
            Metric(
                "gradient_beats_noise",
                "gradient_wins",
                "Images that a gradient attack fools and noise does not",
            ),
        ),
        needs=frozenset({Capability.GRADIENTS}),
        flags=(
            FlagRule(
                "sanity.zero_gradients",
                "zero_gradients",
                above=0.05,
                text="For many images the gradient of the loss is exactly zero. Gradient attacks cannot move "
                "there, so their robust accuracy says nothing about the model.",
                remedy="Read the results of attacks without gradients instead; look for rounding, binarisation or "
                "a detached computation in the model.",
            ),
            FlagRule(
                "sanity.saturated",
                "saturated",
                above=0.05,
                text="For many images the cross-entropy is flat in float32 although the margin is not: the scores "
                "are so far apart that the softmax saturates.",
                remedy="Use an attack on the margin or on the difference-of-logits ratio; audit the logits "
                "instead of probabilities.",
            ),
            FlagRule(
                "sanity.broken_gradients",
                "broken_gradients",
                above=0.0,
                text="Some gradients are NaN or infinite.",
                remedy="Look for divisions by zero, logarithms of zero or overflow in the model's forward pass.",
            ),
            FlagRule(
                "sanity.random",
                "random_scores",
                above=0.0,
                text="The model gives the same image different scores from run to run, so a single query proves "
                "little and attacks are understated.",
                remedy="Switch the randomness off for the audit (evaluation mode, no dropout), or attack its "
                "expectation.",
            ),
            FlagRule(
                "sanity.masking",
                "noise_beats_gradient",
                above=0.02,
                text="Aimless noise fools images that a gradient attack with the same budget does not. Gradients "
                "do not lead to the weak points: robust accuracy under gradient attacks is too high.",
                remedy="Trust the attacks without gradients; look for steps in the model that hide gradients.",
            ),
        ),
        references=(
            "Athalye et al. 2018, https://arxiv.org/abs/1802.00420",
            "Carlini et al. 2019, https://arxiv.org/abs/1902.06705",
        ),
        presets={"smoke": {"draws": 10}, "standard": {}, "full": {"draws": 200}},
    )

    eps: Budgets = (8 / 255,)
    """The budget that noise and gradient attack share (the largest, if several are given)."""
    draws: Annotated[int, Field(ge=1)] = 25
    steps: Annotated[int, Field(ge=1)] = 10

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Test the gradient of every image, and set noise against a gradient attack."""
        assert model.exact is not None  # noqa: S101 (declared in the spec)
        _, entropy = model.exact.gradient(samples.images, _cross_entropy, samples.labels)
        _, margin = model.exact.gradient(samples.images, _margin, samples.labels)
        noise = UniformNoise(eps=self.eps[-1:], draws=self.draws).run(model, samples, ctx)
        steps = PGD(eps=self.eps[-1:], steps=self.steps).run(model, samples, ctx)
        by_noise, by_gradient = noise.columns["fooled"], steps.columns["fooled"]
        own_passes = np.full(len(samples), 4, dtype=np.int64)
        return Findings(
            columns={
                "zero_gradient": (_is_zero(entropy) & _is_zero(margin)).cpu().numpy(),
                "saturated": (_is_zero(entropy) & ~_is_zero(margin)).cpu().numpy(),
                "broken_gradient": (~(_is_finite(entropy) & _is_finite(margin))).cpu().numpy(),
                "random_score": _changes(model, samples.images).cpu().numpy(),
                "noise_wins": by_noise & ~by_gradient,
                "gradient_wins": by_gradient & ~by_noise,
            },
            forwards=own_passes + _passes(noise.forwards) + _passes(steps.forwards),
            backwards=own_passes // 2 + _passes(steps.backwards),
        )


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf)
    return own - others.amax(1)


def _is_zero(gradient: Tensor) -> Tensor:
    return (gradient == 0).flatten(1).all(1)


def _is_finite(gradient: Tensor) -> Tensor:
    return gradient.isfinite().flatten(1).all(1)


def _changes(model: Model, images: Tensor) -> Tensor:
    first, second = model.logits(images), model.logits(images)
    scale = first.abs().amax(1).clamp_min(1e-12)
    return (first - second).abs().amax(1) / scale > _RANDOM_TOLERANCE


def _passes(
    counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None,
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    assert counts is not None  # noqa: S101 (an attack always counts)
    return counts
