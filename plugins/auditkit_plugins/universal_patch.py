"""An adversarial patch: one sticker that works on any image, wherever it is put; learned on some, judged on others."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
    ExecutionError,
    Exhibit,
    Findings,
    Lesson,
    Metric,
    Model,
    Samples,
    Spec,
    budget_text,
    image_panel,
)
from auditkit_plugins.placement import Placement, Shape, placed
from auditkit_plugins.universal_patch_training import Training, Transforms

__all__ = ["UniversalPatch"]

_EXHIBITS = 8
_PRINTED_SIDE = 256
_GREY = 0.5


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
    place: Literal["anywhere", "best"] = "anywhere"
    """Where the patch is put: anywhere, or always about the place where it works best on the training images."""
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
        """Return for each area a patch (C, S, S), the class that it stands for, and the place where it is stuck."""
        assert ctx.search is not None  # noqa: S101 (declared in the spec)
        # By name, so that the order of the data set does not matter.
        samples = samples.take(sorted(range(len(samples)), key=samples.ids.__getitem__))
        logits = model.logits(samples.images)
        if self.target is not None and self.target >= logits.shape[1]:
            raise ExecutionError(f"target is one of the {logits.shape[1]} classes from 0; got {self.target}")
        training = Training(
            ctx.search, samples, logits, ctx, self.target is not None, self.mini_batch, self.printability
        )
        lesson: dict[str, np.ndarray[Any, Any]] = {}
        for area in self.area:
            name, transforms = budget_text(area), self._transforms(area)
            aim = training.best_aim(transforms, self.steps) if self.target is None else self.target
            if self.place == "best":
                transforms = replace(transforms, place=training.best_place(transforms, aim, self.steps))
                lesson[f"place@{name}"] = np.array(transforms.place)
            patch = training.patch(transforms, aim, self.steps)
            after = training.said(patch, transforms)
            lesson[f"patch@{name}"] = patch.cpu().numpy()
            lesson[f"dominant@{name}"] = np.array(_commonest(after[after != logits.argmax(1)], aim))
        return lesson

    def _transforms(self, area: float) -> Transforms:
        return Transforms(area, self.shape, math.radians(self.turn), self.shrink, self.light, self.spread)

    def _learned(self, area: float, lesson: Lesson) -> Transforms:
        """Return how the patch of this area is laid on images that it was not learned from."""
        place = lesson.get(f"place@{budget_text(area)}")
        return self._transforms(area) if place is None else replace(self._transforms(area), place=tuple(place.tolist()))

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

    def _patched(self, samples: Samples, patch: Tensor, draw: int, area: float, ctx: Context) -> Tensor:
        # The same placings for every patch and area: what differs between them is the patch, and where it is stuck.
        where = self._learned(area, ctx.lesson).drawn(ctx.streams(samples.ids, "judging"), draw, samples.images)
        return placed(samples.images, patch, where, self.shape)

    def _noise(self, samples: Samples, draw: int, area: float, ctx: Context) -> Tensor:
        """Return patches (N, C, S, S) of random colours."""
        side = self._transforms(area).texels(samples.images)
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
