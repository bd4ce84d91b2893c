"""One perturbation for all images: learned on some of them, judged on the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_LOGITS,
    Budgets,
    Capability,
    Context,
    Curve,
    Differentiable,
    Exhibit,
    Findings,
    Lesson,
    Metric,
    Model,
    Samples,
    Spec,
    budget_text,
    difference_panel,
    image_panel,
)

__all__ = ["UniversalNoise"]

_EXHIBITS = 8
# What is lowered is the sigmoid of the margin, which turns over so large a share of the median margin. Images that are
# fooled already, and those that no such noise will fool, then have no say; with the margin itself, images that the
# noise makes safer drown the others (on ResNet-20 at 10/255: 56 % of the held-out images fooled instead of 78 %).
_TURN = 0.5
_SHORTEST_STEP = 0.02
_MOMENTUM = 0.9


@dataclass(frozen=True)
class UniversalNoise:
    """Learn one perturbation that changes the prediction of as many training images as possible; try it on others."""

    spec: ClassVar[Spec] = Spec(
        id="noise.universal",
        title="No single perturbation changes the predictions of many images",
        why=(
            "A universal perturbation is made once and added to every image, also to images that its maker never saw: "
            "nothing is computed at the time of the attack, so it can be put on a lens or into a stream. It is learned "
            "here on one half of the images and judged on the other half; random noise of the same amplitude stands "
            "beside it, to tell aim from chance."
        ),
        metrics=(
            Metric("clean_accuracy", "clean_correct", "Correct on the unperturbed held-out images"),
            Metric("robust_accuracy", "robust", "Correct on held-out images with and without the perturbation"),
            Metric("fooling_rate", "changed", "Held-out images whose prediction the perturbation changes"),
            Metric("noise_fooling_rate", "changed_by_noise", "The same for random noise of the same amplitude"),
            Metric(
                "dominant_share",
                "to_dominant",
                "Changed predictions that fall on the label which was commonest in training",
                among="changed",
            ),
        ),
        needs=frozenset({Capability.GRADIENTS}),
        scope="dataset",
        curves=(Curve("robust_accuracy", "Robust accuracy over the budget", "budget"),),
        references=(
            "Moosavi-Dezfooli et al. 2017, https://arxiv.org/abs/1610.08401",
            "Shafahi et al. 2018 (stochastic gradients, bounded loss), https://arxiv.org/abs/1811.11304",
        ),
        presets={
            "standard": {"eps": "2/255, 8/255", "steps": 60},
            "full": {"eps": "1/255, 2/255, 4/255, 8/255, 10/255, 16/255", "steps": 300},
        },
    )

    eps: Budgets = (10 / 255,)
    norm: Literal["linf", "l2"] = "linf"
    steps: Annotated[int, Field(ge=1)] = 150
    """Steps of the optimisation, each on one mini-batch."""
    mini_batch: Annotated[int, Field(ge=1)] = 64

    def learn(self, model: Model, samples: Samples, ctx: Context) -> Lesson:
        """Return a perturbation for each budget, and the label on which most changed predictions fall."""
        assert ctx.search is not None  # noqa: S101 (declared in the spec)
        # By name, so that the order of the data set does not matter.
        samples = samples.take(sorted(range(len(samples)), key=samples.ids.__getitem__))
        logits = model.logits(samples.images)
        predicted = logits.argmax(1)
        turn = (_TURN * _margin(logits, predicted).median()).clamp_min(1e-20).expand(len(samples))
        lesson: dict[str, np.ndarray[Any, Any]] = {}
        for eps in self.eps:
            noise = self._optimised(ctx.search, samples.images, predicted, turn, eps, ctx)
            after = _predicted_with(noise, samples.images, model)
            changed = after[after != predicted]
            commonest = torch.bincount(changed, minlength=1).argmax()
            lesson[f"noise@{budget_text(eps)}"] = noise.cpu().numpy()
            lesson[f"dominant@{budget_text(eps)}"] = commonest.cpu().numpy()
        return lesson

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Add the perturbations to images that were not learned from."""
        clean_logits = ctx.shelf.get(CLEAN_LOGITS)
        predicted = clean_logits.argmax(1)
        correct = predicted == samples.labels
        columns: dict[str, Tensor] = {"clean_correct": correct}
        attacked, after = samples.images, predicted
        for eps in self.eps:
            ctx.check_time()
            name = budget_text(eps)
            noise = torch.from_numpy(ctx.lesson[f"noise@{name}"]).to(samples.images.device)
            attacked = (samples.images + noise).clamp(0, 1)
            after = model.logits(attacked).argmax(1)
            by_noise = model.logits(_random(samples, eps, self.norm, ctx)).argmax(1)
            columns[f"robust@{name}"] = correct & (after == samples.labels)
            columns[f"changed@{name}"] = after != predicted
            columns[f"changed_by_noise@{name}"] = by_noise != predicted
            dominant = int(ctx.lesson[f"dominant@{name}"])
            columns[f"to_dominant@{name}"] = (after != predicted) & (after == dominant)
            columns[f"attacked_label@{name}"] = after
        passes = np.full(len(samples), 1 + 2 * len(self.eps), dtype=np.int64)
        return Findings(
            {name: column.cpu().numpy() for name, column in columns.items()},
            _exhibits(samples, attacked, after, ctx),
            forwards=passes,
            backwards=np.zeros_like(passes),
        )

    def _optimised(
        self, search: Differentiable, images: Tensor, predicted: Tensor, turn: Tensor, eps: float, ctx: Context
    ) -> Tensor:
        """Return noise (C, H, W) that changes many predictions: sign steps with momentum on mini-batches."""
        stream = ctx.streams(["noise"], budget_text(eps))
        noise = self._projected(stream.normal(0, images.shape[1:])[0] * eps, eps)
        velocity = torch.zeros_like(noise)
        for step in range(self.steps):
            ctx.check_time()
            drawn = stream.uniform(step + 1, (min(self.mini_batch, len(images)),))[0]
            rows = (drawn * len(images)).long()
            batch = (images[rows] + noise).clamp(0, 1)
            _, gradients = search.gradient(batch, _steadiness, predicted[rows], turn[rows])
            # Where the range of colours holds a value back, noise has no effect, and must get no say.
            free = ((images[rows] + noise) == batch).to(gradients.dtype)
            gradient = (gradients * free).sum(0)
            velocity = _MOMENTUM * velocity + gradient / gradient.abs().mean().clamp_min(1e-20)
            length = eps * max(1 - step / self.steps, _SHORTEST_STEP) / 4
            noise = self._projected(noise - length * self._direction(velocity), eps)
        return noise

    def _direction(self, velocity: Tensor) -> Tensor:
        if self.norm == "linf":
            return velocity.sign()
        return velocity / _length(velocity[None])[0]

    def _projected(self, noise: Tensor, eps: float) -> Tensor:
        if self.norm == "linf":
            return noise.clamp(-eps, eps)
        return noise * (eps / _length(noise[None])[0]).clamp(max=1)


def _steadiness(logits: Tensor, labels: Tensor, turn: Tensor) -> Tensor:
    """Return about 1 where the prediction stands, and about 0 where it has changed."""
    return (_margin(logits, labels) / turn).sigmoid()


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)


def _predicted_with(noise: Tensor, images: Tensor, model: Model) -> Tensor:
    """Return int64 (N,) classes of images under the noise; no more than a batch of them is changed at once."""
    parts = images.split(model.batch)  # type: ignore[no-untyped-call]
    return torch.cat([model.logits((part + noise).clamp(0, 1)).argmax(1) for part in parts])


def _length(noise: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(noise.flatten(1), dim=1)
    return length.clamp_min(1e-20).view(-1, 1, 1, 1)


def _random(samples: Samples, eps: float, norm: str, ctx: Context) -> Tensor:
    """Return the images with random noise at the edge of the budget: random signs, or a random direction."""
    noise = ctx.streams(samples.ids, "control").normal(0, samples.images.shape[1:])
    if norm == "linf":
        return (samples.images + noise.sign() * eps).clamp(0, 1)
    return (samples.images + noise * (eps / _length(noise))).clamp(0, 1)


def _exhibits(samples: Samples, attacked: Tensor, after: Tensor, ctx: Context) -> tuple[Exhibit, ...]:
    """Return some images that were right and are wrong now, at the largest budget."""
    before = ctx.shelf.get(CLEAN_LOGITS).argmax(1)
    fooled = ((before == samples.labels) & (after != samples.labels)).nonzero().flatten().tolist()
    chosen = sorted(fooled, key=lambda row: samples.ids[row])[:_EXHIBITS]
    exhibits = []
    for row in chosen:
        true, false = ctx.class_name(int(samples.labels[row])), ctx.class_name(int(after[row]))
        panels = (
            image_panel(f"clean: {true}", samples.images[row]),
            image_panel(f"with the universal noise: {false}", attacked[row]),
            difference_panel("the noise", samples.images[row], attacked[row]),
        )
        exhibits.append(Exhibit(samples.ids[row], f"{true} is taken for {false}", 0.0, panels))
    return tuple(exhibits)
