"""An adversarial patch: one sticker that works on any image, wherever it is put; learned on some, judged on others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

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
    ExecutionError,
    Exhibit,
    Findings,
    Lesson,
    Metric,
    Model,
    Samples,
    Spec,
    Streams,
    budget_text,
    image_panel,
)
from auditkit_plugins.placement import (
    NUMBERS_A_PLACEMENT,
    Placement,
    Shape,
    drawn_placement,
    placed,
    side_of,
    texels,
)
from auditkit_plugins.printable import non_printability

__all__ = ["UniversalPatch"]

_EXHIBITS = 8
_PRINTED_SIDE = 256
_FIRST_STEP, _LAST_STEP = 0.1, 0.005
_MOMENTUM = 0.9
_GREY = 0.5
_TURN_OVER = 0.5
# A patch that leads all images to one class can be stronger than one for which any wrong class will do, if it is the
# right class: on ResNet-20, of 269 correct held-out images 58 % instead of 50 %, not counting what it does to images of
# that class (one run each, moved by whole pixels, not turned). Each likely class is tried in few steps.
_MOST_TRIALS, _SHARE_OF_TRIAL = 10, 8
_NO_CLASS = -1


@dataclass(frozen=True)
class UniversalPatch:
    """Learn a patch that fools as many training images as possible under random transforms; try it on other images."""

    spec: ClassVar[Spec] = Spec(
        id="patch.universal",
        title="No single printed patch changes the predictions of many images",
        why=(
            "An adversarial patch is made once, printed, and laid into any scene: it covers a small part of the image "
            "and works wherever it lies, turned or tilted a little, in brighter or dimmer light. It is learned here on "
            "one half of the images and judged on the other half, under places and lights that it has not seen. A "
            "patch of noise and a plain grey one of the same size stand beside it: what those do is the covering, the "
            "rest is aim."
        ),
        metrics=(
            Metric("clean_accuracy", "clean_correct", "Correct on the held-out images without the patch"),
            Metric("robust_accuracy", "robust", "Correct on held-out images without the patch and wherever it was put"),
            Metric(
                "attack_success_rate",
                "fooled",
                "Placings that fool, on correct images",
                "mean",
                "aimed_at",
            ),
            Metric(
                "noise_success_rate", "fooled_by_noise", "The same for a patch of random colours", "mean", "aimed_at"
            ),
            Metric("plain_success_rate", "fooled_by_grey", "The same for a plain grey patch", "mean", "aimed_at"),
            Metric(
                "dominant_share",
                "to_dominant",
                "Placings on correct images after which the model names the class that the patch stands for",
                "mean",
                "aimed_at",
            ),
        ),
        needs=frozenset({Capability.GRADIENTS}),
        scope="dataset",
        curves=(Curve("robust_accuracy", "Robust accuracy over the share of the image that is covered", "share"),),
        references=(
            "Brown et al. 2017, https://arxiv.org/abs/1712.09665",
            "Athalye et al. 2018 (expectation over transformation), https://arxiv.org/abs/1707.07397",
            "Sharif et al. 2016 (printability), https://doi.org/10.1145/2976749.2978392",
        ),
        presets={
            "standard": {"steps": 150},
            "full": {"area": "0.01, 0.02, 0.05, 0.1", "steps": 500},
        },
    )

    area: Budgets = (0.05,)
    """The largest share of the image that the patch covers; several give a patch each."""
    shape: Shape = "square"
    target: Annotated[int, Field(ge=0)] | None = None
    """The class that the patch shall stand for; None: any wrong class will do."""
    steps: Annotated[int, Field(ge=1)] = 300
    """Steps of the optimisation, each on one mini-batch under fresh transforms."""
    mini_batch: Annotated[int, Field(ge=1)] = 32
    draws: Annotated[int, Field(ge=1)] = 4
    """In how many ways the patch is placed on each held-out image."""
    turn: Annotated[float, Field(ge=0, le=180)] = 22.5
    """By how many degrees the patch may be turned, either way."""
    shrink: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """By which share of its side the patch may be smaller than `area` allows."""
    light: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """By which share the patch's colours may be darker or lighter."""
    spread: Annotated[float, Field(ge=0, le=1)] = 1.0
    """How far from the middle of the image the patch may lie: 0 in the middle, 1 anywhere."""
    printability: Annotated[float, Field(ge=0)] = 0.0
    """The weight of the distance to printable colours, beside a loss that lies between 0 and 1."""

    def __post_init__(self) -> None:
        """Refuse shares that are none.

        Raises:
            ValueError: an area is zero, or larger than the image.
        """
        if not all(0 < area <= 1 for area in self.area):
            raise ValueError("an area is a share of the image, larger than 0 and at most 1")

    def learn(self, model: Model, samples: Samples, ctx: Context) -> Lesson:
        """Return a patch (C, S, S) for each area, and the class that it stands for."""
        assert ctx.search is not None  # noqa: S101 (declared in the spec)
        # By name, so that the order of the data set does not matter.
        samples = samples.take(sorted(range(len(samples)), key=samples.ids.__getitem__))
        logits = model.logits(samples.images)
        if self.target is not None and self.target >= logits.shape[1]:
            raise ExecutionError(f"target is one of the {logits.shape[1]} classes from 0; got {self.target}")
        lesson: dict[str, np.ndarray[Any, Any]] = {}
        for area in self.area:
            aim = self._best_aim(ctx.search, samples, logits, area, ctx) if self.target is None else self.target
            patch = self._optimised(ctx.search, samples, logits, area, aim, self.steps, ctx)
            after = self._tried(ctx.search, samples, patch, area, ctx)
            lesson[f"patch@{budget_text(area)}"] = patch.cpu().numpy()
            lesson[f"dominant@{budget_text(area)}"] = np.array(_commonest(after[after != logits.argmax(1)], aim))
        return lesson

    def _best_aim(self, search: Differentiable, samples: Samples, logits: Tensor, area: float, ctx: Context) -> int:
        """Return the class to which a patch of few steps leads best, or that of no particular class."""
        predicted = logits.argmax(1)
        next_best = logits.scatter(1, predicted.unsqueeze(1), -math.inf).argmax(1)
        nearby = torch.bincount(next_best, minlength=logits.shape[1]).argsort(descending=True, stable=True)
        steps = max(1, self.steps // _SHARE_OF_TRIAL)
        fooled: dict[int, float] = {}
        for aim in (_NO_CLASS, *nearby[:_MOST_TRIALS].tolist()):
            patch = self._optimised(search, samples, logits, area, aim, steps, ctx)
            fooled[aim] = float((self._tried(search, samples, patch, area, ctx) != predicted).double().mean())
        return max(fooled, key=fooled.__getitem__)

    def _optimised(
        self, search: Differentiable, samples: Samples, logits: Tensor, area: float, aim: int, steps: int, ctx: Context
    ) -> Tensor:
        """Return a patch (C, S, S) that leads many images to a class: sign steps with momentum on mini-batches."""
        predicted = logits.argmax(1)
        # An image of that very class is led to any other, if any wrong class will do.
        free = (predicted == aim) if self.target is None else torch.zeros_like(predicted, dtype=torch.bool)
        aims = torch.full_like(predicted, aim).masked_fill(free, _NO_CLASS)
        turn = (_TURN_OVER * _margin(logits, predicted).median()).clamp_min(1e-20).expand(len(samples))
        order = ctx.streams(["order"], budget_text(area))
        streams = ctx.streams(samples.ids, f"training {budget_text(area)}")
        side = self._texels(samples.images, area)
        patch = order.uniform(0, (samples.images.shape[1], side, side))[0]
        velocity = torch.zeros_like(patch)
        for step in range(steps):
            ctx.check_time()
            rows = order.uniform(step + 1, (len(samples),))[0].argsort()[: self.mini_batch]
            where = self._placement(Streams(streams.keys[rows]), step, samples.images, area)
            aligned = predicted[rows], aims[rows], turn[rows]
            gradient = self._gradient(search, samples.images[rows], patch, where, *aligned)
            velocity = _MOMENTUM * velocity + gradient / gradient.abs().mean().clamp_min(1e-20)
            length = _FIRST_STEP * (_LAST_STEP / _FIRST_STEP) ** (step / steps)
            patch = (patch - length * velocity.sign()).clamp(0, 1)
        return patch

    def _gradient(
        self, search: Differentiable, images: Tensor, patch: Tensor, where: Placement, *aligned: Tensor
    ) -> Tensor:
        """Return the gradient (C, S, S) of the mean loss of these images with the patch on them."""
        with torch.enable_grad():
            leaf = patch.detach().requires_grad_(True)
            patched = placed(images, leaf, where, self.shape)
            _, gradients = search.gradient(patched, _steadiness, *aligned)
            (gradient,) = torch.autograd.grad(patched, leaf, gradients / len(images))
            if self.printability:
                penalty = self.printability * non_printability(leaf.unsqueeze(0)).sum()
                gradient = gradient + torch.autograd.grad(penalty, leaf)[0]
        return gradient

    def _placement(self, streams: Streams, draw: int, images: Tensor, area: float) -> Placement:
        height, width = images.shape[2:]
        largest = side_of(area, height, width, self.shape)
        draws = streams.uniform(draw, (NUMBERS_A_PLACEMENT,))
        return drawn_placement(
            draws, largest, (height, width), self.shape, math.radians(self.turn), self.shrink, self.light, self.spread
        )

    def _texels(self, images: Tensor, area: float) -> int:
        height, width = images.shape[2:]
        return texels(side_of(area, height, width, self.shape))

    def _tried(self, search: Differentiable, samples: Samples, patch: Tensor, area: float, ctx: Context) -> Tensor:
        """Return int64 (N,): what the search copy says of the training images under a placing not trained on."""
        return search.logits(self._patched(samples, patch, 0, area, ctx, "trying")).argmax(1)

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Put the patches, and patches of noise and plain grey, on images that were not learned from."""
        correct = ctx.shelf.get(CLEAN_LOGITS).argmax(1) == samples.labels
        aimed_at = correct if self.target is None else correct & (samples.labels != self.target)
        columns: dict[str, Tensor] = {"clean_correct": correct, "aimed_at": aimed_at}
        exhibits: tuple[Exhibit, ...] = ()
        for area in self.area:
            name = budget_text(area)
            patch = torch.from_numpy(ctx.lesson[f"patch@{name}"]).to(samples.images.device)
            after = self._verdicts(model, samples, patch, area, ctx)
            by_noise = self._verdicts(model, samples, None, area, ctx)
            by_grey = self._verdicts(model, samples, torch.full_like(patch, _GREY), area, ctx)
            columns[f"robust@{name}"] = correct & (after == samples.labels).all(0)
            columns[f"fooled@{name}"] = self._share_fooled(after, samples.labels)
            columns[f"fooled_by_noise@{name}"] = self._share_fooled(by_noise, samples.labels)
            columns[f"fooled_by_grey@{name}"] = self._share_fooled(by_grey, samples.labels)
            columns[f"to_dominant@{name}"] = (after == int(ctx.lesson[f"dominant@{name}"])).double().mean(0)
            columns[f"attacked_label@{name}"] = after[0]
            shown = columns[f"fooled@{name}"].masked_fill(~aimed_at, -1)
            exhibits = self._exhibits(samples, patch, area, after[0], shown, ctx)
        passes = np.full(len(samples), 1 + 3 * self.draws * len(self.area), dtype=np.int64)
        return Findings(
            {name: column.cpu().numpy() for name, column in columns.items()},
            exhibits,
            forwards=passes,
            backwards=np.zeros_like(passes),
        )

    def _verdicts(self, model: Model, samples: Samples, patch: Tensor | None, area: float, ctx: Context) -> Tensor:
        """Return int64 (draws, N): what the model says under each placing of a patch; None: one of noise each time."""
        said = []
        for draw in range(self.draws):
            ctx.check_time()
            shown = self._noise(samples, draw, area, ctx) if patch is None else patch
            said.append(model.logits(self._patched(samples, shown, draw, area, ctx)).argmax(1))
        return torch.stack(said)

    def _patched(
        self, samples: Samples, patch: Tensor, draw: int, area: float, ctx: Context, purpose: str = "judging"
    ) -> Tensor:
        # The same placings for every patch and area: what differs between them is the patch.
        where = self._placement(ctx.streams(samples.ids, purpose), draw, samples.images, area)
        return placed(samples.images, patch, where, self.shape)

    def _noise(self, samples: Samples, draw: int, area: float, ctx: Context) -> Tensor:
        """Return patches (N, C, S, S) of random colours."""
        side = self._texels(samples.images, area)
        return ctx.streams(samples.ids, "noise").uniform(draw, (samples.images.shape[1], side, side))

    def _share_fooled(self, after: Tensor, labels: Tensor) -> Tensor:
        """Return float64 (N,): the share of the draws (D, N) that end at the target, or at any wrong class."""
        fooled = after != labels if self.target is None else after == self.target
        return fooled.double().mean(0)

    def _exhibits(
        self, samples: Samples, patch: Tensor, area: float, after: Tensor, fooled: Tensor, ctx: Context
    ) -> tuple[Exhibit, ...]:
        """Return the images that the largest patch fools most often, each beside the patch, ready to be printed."""
        aimed_at = (fooled >= 0).nonzero().flatten().tolist()
        ranked = sorted(aimed_at, key=lambda row: (-float(fooled[row]), samples.ids[row]))[:_EXHIBITS]
        if not ranked:
            return ()
        few = samples.take(ranked)
        attacked = self._patched(few, patch, 0, area, ctx)
        print_out = self._print_out(patch)
        exhibits = []
        for at, row in enumerate(ranked):
            true, said = ctx.class_name(int(samples.labels[row])), ctx.class_name(int(after[row]))
            panels = (
                image_panel(f"clean: {true}", few.images[at]),
                image_panel(f"with the patch: {said}", attacked[at]),
                image_panel("the patch, to be printed", print_out),
            )
            caption = f"{true} is taken for {said} with a patch on {area:.1%} of the image"
            exhibits.append(Exhibit(samples.ids[row], caption, float(fooled[row]), panels))
        return tuple(exhibits)

    def _print_out(self, patch: Tensor) -> Tensor:
        """Return the patch (C, P, P) enlarged, on white paper."""
        paper = patch.new_ones((1, len(patch), _PRINTED_SIDE, _PRINTED_SIDE))
        middle = patch.new_full((1,), _PRINTED_SIDE / 2)
        where = Placement(middle, middle, torch.zeros_like(middle), 2 * middle, torch.ones_like(middle))
        return placed(paper, patch, where, self.shape)[0]


def _commonest(classes: Tensor, fallback: int) -> int:
    """Return the commonest of these classes (N,); where there is none, the fallback."""
    return int(torch.bincount(classes).argmax()) if len(classes) else max(fallback, 0)


def _steadiness(logits: Tensor, labels: Tensor, aim: Tensor, turn: Tensor) -> Tensor:
    """Return about 1 where the prediction stands (the aim is not reached), about 0 where it is not (it is)."""
    short_of_aim = -_margin(logits, aim.clamp_min(0))
    return (torch.where(aim < 0, _margin(logits, labels), short_of_aim) / turn).sigmoid()


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own - logits.scatter(1, labels.unsqueeze(1), -math.inf).amax(1)
