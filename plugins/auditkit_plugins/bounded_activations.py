"""What bounding a model's activations would buy: the same attacks on the model and on a copy with bounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    Budgets,
    Capability,
    Conclusion,
    Context,
    Findings,
    FlagRule,
    Lesson,
    Metric,
    Model,
    Samples,
    Spec,
    Table,
    Tally,
    activation_quantiles,
    bounded_copy,
    train_bounds,
)
from auditkit_plugins.both_networks import Pair, attack_with_noise, attack_with_stickers, clean_columns
from auditkit_plugins.cell_gallery import cell_exhibits
from auditkit_plugins.four_cells import cell_table, cell_tally, clean_verdict, verdict
from auditkit_plugins.pgd import PGD
from auditkit_plugins.sticker import Sticker

__all__ = ["BoundedActivations"]

Columns = Mapping[str, npt.NDArray[Any]]

# Bounds are measured on batches of this size, whatever the audit's: rounding would depend on it.
_ROWS = 32
_TRIAL_IMAGES = 8
_SEEDS = 2**24


def _cells(name: str, words: str) -> tuple[Metric, ...]:
    titles = {
        "none": f"{words} that fool neither network",
        "bounded_only": f"{words} that fool the bounded network only",
        "original_only": f"{words} that fool the original network only",
        "both": f"{words} that fool both networks",
    }
    return tuple(
        Metric(f"{name}_{cell}", f"{name}_{cell}", title, among="attacked_both") for cell, title in titles.items()
    )


@dataclass(frozen=True)
class BoundedActivations:
    """Bound the rectifiers at a quantile of clean activations, and attack both networks alike."""

    spec: ClassVar[Spec] = Spec(
        id="prevent.bounded",
        title="What bounding the activations would buy",
        why=(
            "A small sticker can win against a whole image because a rectifier has no upper limit: a few places with "
            "huge activations outvote all others. A bound takes that away. Whether it makes this network withstand "
            "more, and what it costs on clean images, is measured here before anybody deploys it: the same attacks, "
            "on the same images, with the same seeds and budgets, on the network and on a copy of it with bounds."
        ),
        metrics=(
            *_cells("fooled", "Stickers"),
            Metric("clean_accuracy", "clean_correct", "Correct on the unperturbed held-out images"),
            Metric("bounded_clean_accuracy", "bounded_clean_correct", "The same, with bounds"),
            Metric("clean_lost", "clean_lost", "Correct images that the bounds make incorrect", among="clean_correct"),
            Metric("robust_accuracy", "robust", "Correct before and after the stickers"),
            Metric("bounded_robust_accuracy", "bounded_robust", "The same, with bounds"),
            Metric(
                "stickers_removed",
                "stickers_removed",
                "Stickers that fool the original, of which the search finds none with bounds",
                among="original_fooled",
            ),
            Metric("joint_success", "joint_success", "One set of stickers fools both networks", among="attacked_both"),
            Metric(
                "transfer_to_bounded",
                "transfer_to_bounded",
                "Stickers made for the original that fool the bounded network, too",
                among="original_fooled",
            ),
            Metric(
                "transfer_to_original",
                "transfer_to_original",
                "Stickers made for the bounded network that fool the original, too",
                among="bounded_fooled",
            ),
            *_cells("noise", "Images with noise"),
            Metric("noise_robust_accuracy", "noise_robust", "Correct before and after the noise"),
            Metric("bounded_noise_robust_accuracy", "bounded_noise_robust", "The same, with bounds"),
            Metric(
                "bpda_robust_accuracy",
                "bpda_robust",
                "The same, with bounds that the attacker's gradients do not see (BPDA)",
            ),
            Metric(
                "hidden_from_gradient",
                "hidden_from_gradient",
                "Images that the bounded network's own gradient does not fool, and BPDA does",
                among="attacked_both",
            ),
        ),
        needs=frozenset({Capability.GRADIENTS}),
        scope="dataset",
        flags=(
            FlagRule(
                "prevent.hidden_gradient",
                "hidden_from_gradient",
                above=0.05,
                text="The bounds hide gradients: an attack that follows those of the bounded network fails on images "
                "that it fools once its gradients pass the bounds by.",
                remedy="Do not take what a gradient attack says of the bounded network for robustness; read "
                "bpda_robust_accuracy and the stickers, which need no gradients.",
            ),
            FlagRule(
                "prevent.clean_cost",
                "clean_lost",
                above=0.05,
                text="The bounds make more than one in twenty correct images incorrect.",
                remedy="Choose a quantile closer to 1, bound the late layers only, or train the bounds.",
            ),
        ),
        references=(
            "Horváth 2020, Adversarial samples in machine learning (talk)",
            "Athalye et al. 2018 (BPDA), https://arxiv.org/abs/1802.00420",
            "Choi et al. 2018 (PACT: trained bounds), https://arxiv.org/abs/1805.06085",
            "McNemar 1947, https://doi.org/10.1007/BF02295996",
        ),
        presets={
            "standard": {},
            "full": {"queries": 1000, "steps": 40},
        },
    )

    quantile: Annotated[float, Field(gt=0, le=1)] = 0.999
    """The share of the activations on clean images that a bound leaves as they are."""
    per: Literal["channel", "layer"] = "channel"
    overflow: Literal["fold", "leak", "clip"] = "fold"
    """What happens beyond the bound."""
    layers: Literal["all", "late"] = "all"
    """Which rectifiers are bounded: all, or the second half of them in order of execution."""
    train: Annotated[int, Field(ge=0)] = 0
    """For how many epochs the bounds, and nothing else, learn on the learning half. 0: they stay at the quantile."""
    queries: Annotated[int, Field(ge=1)] = 200
    """Queries of each search for stickers."""
    side: Annotated[float, Field(gt=0, le=1)] = 5 / 32
    """The longest side of a sticker, as a share of the image's shorter side."""
    eps: Budgets = (1 / 255,)
    """The budget of the noise (the largest counts)."""
    steps: Annotated[int, Field(ge=1)] = 20
    """Steps of the noise attack."""
    gallery: Annotated[int, Field(ge=0)] = 8

    def learn(self, model: Model, samples: Samples, ctx: Context) -> Lesson:
        """Return the bound of each rectifier, in order of execution; infinite where there is none."""
        assert model.exact is not None  # noqa: S101 (declared in the spec)
        # By name, so that the order of the data set does not matter.
        samples = samples.take(sorted(range(len(samples)), key=samples.ids.__getitem__))
        network = model.exact.network
        measured = activation_quantiles(
            network, _batches(samples.images, ctx), [self.quantile], per_channel=self.per == "channel"
        )
        bounds = list(measured.bounds(self.quantile))
        if self.layers == "late":
            early = len(bounds) // 2
            bounds[:early] = [torch.full_like(bound, torch.inf) for bound in bounds[:early]]
        if self.train:
            draw = ctx.streams(["bounds"], "order").uniform(0, (1,))
            generator = torch.Generator().manual_seed(int(draw * _SEEDS))
            bounded = bounded_copy(network, samples.images[:_ROWS], bounds, self.overflow)
            learned = train_bounds(
                bounded, samples.images, samples.labels, generator=generator, epochs=self.train
            ).bounds()
            bounds = [old if new is None else new for old, new in zip(bounds, learned, strict=True)]
        return {f"bound{place:04d}": bound.float().cpu().numpy() for place, bound in enumerate(bounds)}

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Attack both networks, each where it is right, and show each what fools the other."""
        bounds = [torch.from_numpy(ctx.lesson[name]) for name in sorted(ctx.lesson)]
        pair = Pair.of(model, samples, replace(ctx, progress=_unheard), _trial(samples, ctx), bounds, self.overflow)
        columns = clean_columns(pair)
        stickers = attack_with_stickers(
            pair, Sticker(queries=self.queries, side=(self.side,)), columns["attacked_both"]
        )
        noise = attack_with_noise(pair, PGD(eps=self.eps[-1:], steps=self.steps), columns["attacked_both"])
        ctx.progress(len(samples))
        columns = {**columns, **stickers.columns, **noise.columns}
        return Findings(
            columns,
            cell_exhibits(columns, stickers.on, samples, ctx, self.gallery),
            forwards=stickers.forwards + noise.forwards,
            backwards=stickers.backwards + noise.backwards,
            tallies=_tallies(columns, bounds),
        )

    def conclude(self, tallies: Mapping[str, npt.NDArray[Any]]) -> Conclusion:
        """Return the four cells of each attack, and what the bounds buy and cost in a sentence each."""
        found, bounded = map(int, tallies["sites"])
        learned = f", then {self.train} epoch{'s' * (self.train > 1)} of training" if self.train else ""
        what = f"bounding {bounded} of {found} rectifiers ({self.overflow}, q = {self.quantile:g}{learned})"
        stickers = f"{what} {clean_verdict(tallies['clean'])} and {verdict('sticker', tallies['stickers'])}"
        noise = f"{what} {verdict('noise', tallies['noise'])}"
        return Conclusion(
            (
                Table("What the bounds buy and cost", ("verdict",), ((stickers,), (noise,))),
                cell_table({"stickers": tallies["stickers"], "noise": tallies["noise"]}),
            )
        )


def _unheard(samples: int) -> None:
    """Progress of one of several attacks."""


def _batches(images: Tensor, ctx: Context) -> Iterator[Tensor]:
    for start in range(0, len(images), _ROWS):
        ctx.check_time()
        yield images[start : start + _ROWS]


def _trial(samples: Samples, ctx: Context) -> Tensor:
    """Return noise (M, C, H, W), on which networks are tried: the same in every shard."""
    names = [f"trial {number}" for number in range(_TRIAL_IMAGES)]
    return ctx.streams(names, "trial").uniform(0, samples.images.shape[1:])


def _tallies(columns: Columns, bounds: Sequence[Tensor]) -> dict[str, Tally]:
    before, after = columns["clean_correct"], columns["bounded_clean_correct"]
    clean = [~before & ~after, ~before & after, before & ~after, before & after]
    bounded = sum(bool(bound.isfinite().any()) for bound in bounds)
    return {
        "clean": Tally(np.array([np.count_nonzero(own) for own in clean], dtype=np.int64)),
        "stickers": cell_tally("fooled", columns),
        "noise": cell_tally("noise", columns),
        "sites": Tally(np.array([len(bounds), bounded], dtype=np.int64), "largest"),
    }
