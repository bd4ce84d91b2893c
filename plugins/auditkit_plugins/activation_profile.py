"""How loud the neurons are: largest activations, and how few units carry a layer, on clean and on attacked images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor

from auditkit import (
    ActivationCalibration,
    ActivationStatistics,
    ActivationTotals,
    Capability,
    Conclusion,
    Context,
    Findings,
    Lesson,
    Metric,
    Model,
    Samples,
    Spec,
    Streams,
    calibrate_activations,
    profile_activations,
)
from auditkit_plugins.activation_columns import Attacked, clean_columns, family_columns
from auditkit_plugins.activation_gallery import Gallery
from auditkit_plugins.activation_tallies import conclusion, tallies
from auditkit_plugins.attacked_images import FAMILIES, Pictures, attacked_images, family_of
from auditkit_plugins.controls import moved

__all__ = ["ActivationProfile"]


def _clean_metrics() -> tuple[Metric, ...]:
    return (
        Metric("loudness", "loudness", "Largest activation, over the typical largest one of its layer", "median"),
        Metric("top_unit", "top_unit", "Share of a layer's activation that its loudest unit carries", "mean"),
        Metric("top_share", "top_share", "Share that the loudest 1 % of the units carry, one at least", "mean"),
        Metric("effective_share", "effective_share", "Effective number of active units, as a share of them", "mean"),
        Metric("outlier_rate", "outlier_rate", "Share of the activations beyond four standard deviations", "mean"),
    )


def _family_metrics(family: str, words: str) -> tuple[Metric, ...]:
    among = f"{family}_attacked"
    return (
        Metric(f"{family}_ratio", f"{family}_ratio", f"{words}: loudness, attacked over clean", "median", among),
        Metric(
            f"{family}_control_ratio",
            f"{family}_control_ratio",
            f"{words}: the same, for the perturbation moved elsewhere",
            "median",
            among,
        ),
        Metric(
            f"{family}_louder",
            f"{family}_louder",
            f"{words}: attacked images that are louder than with the perturbation moved elsewhere",
            "proportion",
            among,
        ),
        *(
            Metric(
                f"{family}_{name}_auroc", f"{family}_{column}", f"{words}: AUROC of {told}", "auroc", against=against
            )
            for name, column, against, told in (
                ("loudness", "loudness", "loudness", "the loudness, attacked against clean"),
                ("control", "control_loudness", "loudness", "the same, for the perturbation moved elsewhere"),
                ("top_share", "top_share", "top_share", "the share of the loudest 1 %, attacked against clean"),
                ("last_norm", "last_norm", "last_norm", "the norm of the last layer, attacked against clean"),
            )
        ),
    )


@dataclass(frozen=True)
class ActivationProfile:
    """Profile the activations of every layer, on clean images, on attacked ones, and on their controls."""

    spec: ClassVar[Spec] = Spec(
        id="profile.activations",
        title="A few neurons do not drown the others, also under attack",
        why=(
            "Nothing bounds a neuron with a ReLU: a single one may become so loud that it decides alone. Physical "
            "stickers are known to work by such over-represented activations. What is loud differs from network to "
            "network, and some need a few very loud units, transformers for one. So no size is judged here: attacked "
            "images stand beside the clean ones, and beside a control, the same perturbation moved to another place."
        ),
        metrics=(
            *_clean_metrics(),
            *(metric for family, words in FAMILIES.items() for metric in _family_metrics(family, words)),
        ),
        needs=frozenset({Capability.ACTIVATIONS}),
        scope="calibrated",
        reads=tuple(f"{family}.*" for family in FAMILIES),
        references=(
            "Horváth 2020, Adversarial samples in machine learning (talk)",
            "Horváth and Al-afandi 2020, https://arxiv.org/abs/2010.08251",
            "Co et al. 2021, https://arxiv.org/abs/2105.07334",
            "Bondarenko et al. 2023, https://arxiv.org/abs/2306.12929",
            "Sun et al. 2024, https://arxiv.org/abs/2402.17762",
        ),
        presets={"smoke": {}, "standard": {}, "full": {}},
    )

    exact_kurtosis: bool = False
    """Sum the powers of every activation, instead of reading the kurtosis of a ReLU off its histogram."""
    gallery: Annotated[int, Field(ge=0)] = 8

    def learn(self, model: Model, samples: Samples, ctx: Context) -> Lesson:
        """Learn what is usual for each unit."""
        assert model.watched is not None  # noqa: S101 (declared in the spec)
        return calibrate_activations(model.watched, model.sites, samples.images, samples.ids).arrays()

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Profile clean images, attacked ones, and controls."""
        usual = ActivationCalibration.of(ctx.lesson)
        totals = ActivationTotals.none(model.sites, samples.images.device)
        clean = self._profiled(model, usual, samples.images, ctx, totals)
        keys = [key for key in sorted(ctx.finished) if family_of(ctx.finished[key]) in FAMILIES]
        pictures = attacked_images([ctx.finished[key] for key in keys], samples)
        controls = moved(samples.images[pictures.rows], pictures.images, _streams(pictures, samples, ctx))
        families = np.array([list(FAMILIES).index(family_of(ctx.finished[key])) for key in keys], dtype=np.int64)
        attacked = Attacked(
            pictures.rows.cpu().numpy(),
            families[pictures.source.cpu().numpy()],
            self._profiled(model, usual, pictures.images, ctx),
            self._profiled(model, usual, controls, ctx),
        )
        ctx.progress(len(samples))
        columns = clean_columns(clean, usual.typical_largest)
        columns |= family_columns(attacked, columns, usual.typical_largest)
        shown = Gallery(model, samples, ctx, usual.typical_largest, self.gallery)
        exhibits = [*shown.clean(clean), *shown.attacked(pictures, controls, keys, clean, attacked)]
        exhibits.sort(key=lambda one: (-one.score, one.sample, one.caption))
        return Findings(
            columns,
            tuple(exhibits[: self.gallery]),
            forwards=1 + 2 * np.bincount(attacked.rows, minlength=len(samples)),
            backwards=np.zeros(len(samples), dtype=np.int64),
            tallies=tallies(model.sites, totals, clean, attacked),
        )

    def conclude(self, tallies: Mapping[str, npt.NDArray[Any]]) -> Conclusion:
        """Return what all images together show: a table of the layers, and figures along them."""
        return conclusion(tallies)

    def _profiled(
        self,
        model: Model,
        usual: ActivationCalibration,
        images: Tensor,
        ctx: Context,
        totals: ActivationTotals | None = None,
    ) -> ActivationStatistics:
        assert model.watched is not None  # noqa: S101 (declared in the spec)
        parts = []
        for start in range(0, max(1, len(images)), ctx.batch):
            ctx.check_time()
            part = images[start : start + ctx.batch]
            parts.append(profile_activations(model.watched, model.sites, usual, part, totals, self.exact_kurtosis))
        return ActivationStatistics.joined(parts)


def _streams(pictures: Pictures, samples: Samples, ctx: Context) -> Streams:
    return ctx.streams([samples.ids[row] for row in pictures.rows.tolist()], "moved")
