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

# Half the length of the steps over which slopes are measured: what attacks move by, and more than float32 rounds.
_STEP = 1 / 255
# Slopes along random directions whose cosine with those that the gradient predicts lies below have little in common.
_RELATED = 0.5
_DECIMALS = 6
_GRADIENTS = frozenset({Capability.GRADIENTS})


@dataclass(frozen=True)
class GradientSanity:
    """Look for zero, broken and misleading gradients."""

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
            Metric("shattered", "shattered", "Images along whose slopes the gradient does not point"),
            Metric(
                "slope_agreement",
                "slope_cosine",
                "Cosine between measured slopes and those that the gradient predicts",
                "mean",
                among="has_slopes",
            ),
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
        needs=_GRADIENTS,
        flags=(
            FlagRule(
                "sanity.zero_gradients",
                "zero_gradients",
                above=0.05,
                text="For many images the gradient of the loss is exactly zero. Gradient attacks cannot move "
                "there, so their robust accuracy says nothing about the model.",
                remedy="Read the results of attacks without gradients instead; look for rounding, binarisation or "
                "a detached computation in the model.",
                doubts=_GRADIENTS,
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
                "sanity.shattered",
                "shattered",
                above=0.5,
                text="For most images the scores do not change as the gradient predicts, even over steps of one grey "
                "level. It stands in for another function (straight-through), or holds at a single point only "
                "(shattered): gradient attacks are led astray.",
                remedy="Differentiate a smooth stand-in that follows the model (BPDA), average gradients over noise, "
                "or read the results of attacks without gradients.",
                doubts=_GRADIENTS,
            ),
            FlagRule(
                "sanity.masking",
                "noise_beats_gradient",
                above=0.02,
                text="Aimless noise fools images that a gradient attack with the same budget does not. Gradients "
                "do not lead to the weak points: robust accuracy under gradient attacks is too high.",
                remedy="Trust the attacks without gradients; look for steps in the model that hide gradients.",
                doubts=_GRADIENTS,
            ),
        ),
        references=(
            "Athalye et al. 2018, https://arxiv.org/abs/1802.00420",
            "Carlini et al. 2019, https://arxiv.org/abs/1902.06705",
        ),
        presets={
            "smoke": {"draws": 10, "directions": 4},
            "standard": {},
            "full": {"draws": 200, "directions": 32},
        },
        version=2,
    )

    eps: Budgets = (8 / 255,)
    """The budget that noise and gradient attack share (the largest, if several are given)."""
    draws: Annotated[int, Field(ge=1)] = 25
    steps: Annotated[int, Field(ge=1)] = 10
    directions: Annotated[int, Field(ge=2)] = 8
    """Random directions an image along which slopes are measured."""

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Test the gradient of every image, and set noise against a gradient attack."""
        assert model.exact is not None  # noqa: S101 (declared in the spec)
        _, entropy = model.exact.gradient(samples.images, _cross_entropy, samples.labels)
        _, margin = model.exact.gradient(samples.images, _margin, samples.labels)
        cosine = self._slope_cosine(margin, model, samples, ctx)
        noise = UniformNoise(eps=self.eps[-1:], draws=self.draws).run(model, samples, ctx)
        steps = PGD(eps=self.eps[-1:], steps=self.steps).run(model, samples, ctx)
        by_noise, by_gradient = noise.columns["fooled"], steps.columns["fooled"]
        two_passes = np.full(len(samples), 2, dtype=np.int64)
        return Findings(
            columns={
                "zero_gradient": (_is_zero(entropy) & _is_zero(margin)).cpu().numpy(),
                "saturated": (_is_zero(entropy) & ~_is_zero(margin)).cpu().numpy(),
                "broken_gradient": (~(_is_finite(entropy) & _is_finite(margin))).cpu().numpy(),
                "shattered": (cosine < _RELATED).cpu().numpy(),
                "slope_cosine": np.round(cosine.cpu().numpy(), _DECIMALS),
                "has_slopes": cosine.isfinite().cpu().numpy(),
                "noise_wins": by_noise & ~by_gradient,
                "gradient_wins": by_gradient & ~by_noise,
            },
            forwards=two_passes * (1 + self.directions) + _passes(noise.forwards) + _passes(steps.forwards),
            backwards=two_passes + _passes(steps.backwards),
        )

    def _slope_cosine(self, gradient: Tensor, model: Model, samples: Samples, ctx: Context) -> Tensor:
        """Return float64 (N,): the cosine between measured and predicted slopes of each image's margin.

        0 where the margin does not change although the gradient says so; NaN where the gradient is zero or not finite.
        """
        cosines = []
        for start in range(0, len(samples), ctx.batch):
            part = slice(start, start + ctx.batch)
            images, labels, rng = samples.images[part], samples.labels[part], ctx.streams(samples.ids[part], "slopes")
            measured, predicted = [], []
            for direction in range(self.directions):
                ctx.check_time()
                offset = torch.where(rng.uniform(direction, images.shape[1:]) < 0.5, -_STEP, _STEP)
                ahead, behind = (images + offset).clamp(0, 1), (images - offset).clamp(0, 1)
                measured.append(_margin(model.logits(ahead), labels) - _margin(model.logits(behind), labels))
                predicted.append((gradient[part].double() * (ahead - behind)).flatten(1).sum(1))
            cosines.append(_cosine(torch.stack(measured, 1).double(), torch.stack(predicted, 1)))
        return torch.cat(cosines)


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf)
    return own - others.amax(1)


def _cosine(measured: Tensor, predicted: Tensor) -> Tensor:
    lengths = measured.norm(dim=1) * predicted.norm(dim=1)
    cosine = (measured * predicted).sum(1) / lengths
    cosine = torch.where((measured == 0).all(1) & (predicted != 0).any(1), torch.zeros_like(cosine), cosine)
    return torch.where(cosine.isfinite() & predicted.isfinite().all(1), cosine, torch.nan)


def _is_zero(gradient: Tensor) -> Tensor:
    return (gradient == 0).flatten(1).all(1)


def _is_finite(gradient: Tensor) -> Tensor:
    return gradient.isfinite().flatten(1).all(1)


def _passes(
    counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None,
) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    assert counts is not None  # noqa: S101 (an attack always counts)
    return counts
