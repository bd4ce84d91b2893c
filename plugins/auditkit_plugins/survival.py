"""What is left of attacks in front of a camera: attacked images, and clean ones, after real-life distortions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_LOGITS,
    Context,
    Curve,
    Exhibit,
    Findings,
    Metric,
    Model,
    Samples,
    Spec,
    image_panel,
)
from auditkit_plugins.attacked_images import FAMILIES, Pictures, attacked_images, family_of, mean_of_rows
from auditkit_plugins.camera import DISTORTIONS, RANDOM, STRENGTHS, DistortionName
from auditkit_plugins.levels import Strengths

__all__ = ["Survival"]

_CLEAN = -1
_FIGURE = "What survives a camera, over the strength of its distortions"
_SHOWN_OF_A_CHECK = 2


@dataclass(frozen=True)
class _Shot:
    """One way in which every image is distorted."""

    name: DistortionName
    strength: int
    draw: int


@dataclass(frozen=True)
class Survival:
    """Distort attacked and clean images alike, and count which still fool and which are still recognised."""

    spec: ClassVar[Spec] = Spec(
        id="physical.survival",
        title="Attacked images lose their effect in front of a camera",
        why=(
            "An attacked image in memory is one thing, the same image printed and photographed another: a lens bends "
            "it, it hangs askew, light, blur, noise and compression change it. It is often said that faint noise does "
            "not survive this and that stickers do. Here the attacked images of this audit go through models of these "
            "distortions, beside the clean images with the very same draws: a distortion that breaks the clean image, "
            "too, proves nothing about the attack."
        ),
        metrics=(
            *(
                metric
                for family, words in FAMILIES.items()
                for metric in (
                    Metric(
                        f"{family}_survives",
                        f"{family}_survives",
                        f"{words}: share of distorted attacked images that still fool",
                        "mean",
                        among=f"{family}_attacked",
                    ),
                    Metric(
                        f"{family}_excess",
                        f"{family}_excess",
                        f"{words}: the same, less the share of clean images that the same distortions break",
                        "mean",
                        among=f"{family}_attacked",
                    ),
                    *(
                        Metric(
                            f"{family}_survives_{name}",
                            f"{family}_survives_{name}",
                            f"{words}: share that still fools after {name.replace('_', ' ')}, over all strengths",
                            "mean",
                            among=f"{family}_attacked",
                        )
                        for name in DISTORTIONS
                    ),
                )
            ),
            Metric(
                "clean_stays_correct",
                "clean_stays_correct",
                "Share of distorted clean images that are still recognised",
                "mean",
                among="clean_correct",
            ),
            *(
                Metric(
                    f"clean_stays_correct_{name}",
                    f"clean_stays_correct_{name}",
                    f"Share of clean images still recognised after {name.replace('_', ' ')}, over all strengths",
                    "mean",
                    among="clean_correct",
                )
                for name in DISTORTIONS
            ),
        ),
        reads=tuple(f"{family}.*" for family in FAMILIES),
        curves=(
            *(
                Curve(
                    f"{family}_survives",
                    f"{words}: share that still fools over the distortions' strength",
                    "strength",
                    figure=_FIGURE,
                    line=f"{words}: still fool",
                )
                for family, words in FAMILIES.items()
            ),
            Curve(
                "clean_stays_correct",
                "Clean images still recognised over the distortions' strength",
                "strength",
                figure=_FIGURE,
                line="Clean images: still recognised",
            ),
        ),
        references=(
            "Kurakin et al. 2017, https://arxiv.org/abs/1607.02533",
            "Athalye et al. 2018, https://arxiv.org/abs/1707.07397",
            "Horváth 2020, Adversarial samples in machine learning (talk)",
        ),
        presets={
            "smoke": {"strengths": "2", "draws": 1},
            "standard": {"draws": 1},
            "full": {"draws": 16},
        },
    )

    strengths: Strengths = STRENGTHS
    draws: Annotated[int, Field(ge=1)] = 4
    """Random draws of each distortion at each strength."""
    gallery: Annotated[int, Field(ge=0)] = 8

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Show all images to the camera, and ask the deployed model what it sees."""
        checks = [(key, ctx.finished[key]) for key in sorted(ctx.finished) if family_of(ctx.finished[key]) in FAMILIES]
        clean_correct = ctx.shelf.get(CLEAN_LOGITS).argmax(1) == samples.labels
        asked = np.ones(len(samples), dtype=np.int64)
        attacked = attacked_images([finished for _, finished in checks], samples)
        fools = model.logits(attacked.images).argmax(1)
        np.add.at(asked, attacked.rows.cpu().numpy(), 1)
        keep = fools != samples.labels[attacked.rows]
        before, attacked = fools[keep], attacked.take(keep)
        shots = self._shots()
        after = _seen(attacked, shots, model, samples, ctx)
        clean_rows = clean_correct.nonzero().flatten()
        clean = Pictures(samples.images[clean_rows], clean_rows, torch.full_like(clean_rows, _CLEAN))
        after_clean = _seen(clean, shots, model, samples, ctx)
        ctx.progress(len(samples))
        for pictures in (attacked, clean):
            np.add.at(asked, pictures.rows.cpu().numpy(), len(shots))
        survives = (after != samples.labels[attacked.rows].unsqueeze(1)).cpu().numpy()
        stays = np.zeros((len(samples), len(shots)), dtype=bool)
        stays[clean.rows.cpu().numpy()] = (after_clean == samples.labels[clean.rows].unsqueeze(1)).cpu().numpy()
        families = np.array([list(FAMILIES).index(family_of(finished)) for _, finished in checks], dtype=np.int64)
        columns: dict[str, npt.NDArray[Any]] = {"clean_correct": clean_correct.cpu().numpy()}
        columns |= _stays(shots, stays, columns["clean_correct"])
        rows, which = attacked.rows.cpu().numpy(), families[attacked.source.cpu().numpy()]
        for number, family in enumerate(FAMILIES):
            own = which == number
            columns |= _survives(family, shots, survives[own], ~stays[rows[own]], rows[own], len(samples))
        return Findings(
            columns,
            self._exhibits(attacked, before, after, shots, [key for key, _ in checks], samples, ctx),
            forwards=asked,
            backwards=np.zeros_like(asked),
        )

    def _shots(self) -> tuple[_Shot, ...]:
        return tuple(
            _Shot(name, strength, draw)
            for name in DISTORTIONS
            for strength in self.strengths
            for draw in range(self.draws if name in RANDOM else 1)
        )

    def _exhibits(
        self,
        attacked: Pictures,
        before: Tensor,
        after: Tensor,
        shots: Sequence[_Shot],
        keys: Sequence[str],
        samples: Samples,
        ctx: Context,
    ) -> tuple[Exhibit, ...]:
        """Show, of each check, the images whose attacks survive least and those whose attacks survive most."""
        share = (after != samples.labels[attacked.rows].unsqueeze(1)).double().mean(1)
        shot = shots.index(_Shot("photograph", self.strengths[len(self.strengths) // 2], 0))
        exhibits = []
        for number, key in enumerate(keys):
            own = (attacked.source == number).nonzero().flatten().tolist()
            ranked = sorted(own, key=lambda at: (float(share[at]), samples.ids[int(attacked.rows[at])]))
            for at in sorted({*ranked[:_SHOWN_OF_A_CHECK], *ranked[-_SHOWN_OF_A_CHECK:]}):
                labels = int(before[at]), int(after[at, shot])
                exhibits.append(_exhibit(attacked, at, labels, float(share[at]), shots[shot], key, samples, ctx))
        return tuple(sorted(exhibits, key=lambda one: (-one.score, one.sample, one.caption))[: self.gallery])


def _seen(pictures: Pictures, shots: Sequence[_Shot], model: Model, samples: Samples, ctx: Context) -> Tensor:
    """Return int64 (M, S): what the deployed model takes each picture for in each shot."""
    classes = [pictures.rows.new_zeros((0, len(shots)))]
    for start in range(0, len(pictures.rows), ctx.batch):
        part = slice(start, start + ctx.batch)
        said = []
        for shot in shots:
            ctx.check_time()
            distorted = _distorted(shot, pictures.images[part], pictures.rows[part], samples, ctx)
            said.append(model.logits(distorted).argmax(1))
        classes.append(torch.stack(said, 1))
    return torch.cat(classes)


def _distorted(shot: _Shot, images: Tensor, rows: Tensor, samples: Samples, ctx: Context) -> Tensor:
    # The same draws for a sample's clean and attacked images, and at every strength: differences are no luck.
    streams = ctx.streams([samples.ids[row] for row in rows.tolist()], shot.name)
    return DISTORTIONS[shot.name](images, shot.strength, streams, shot.draw)


def _parts(shots: Sequence[_Shot]) -> dict[str, npt.NDArray[np.bool_]]:
    """Return which shots are of each strength, and of each distortion, by what their columns end with."""
    strengths = sorted({shot.strength for shot in shots})
    parts = {f"@{strength}": np.array([shot.strength == strength for shot in shots]) for strength in strengths}
    return parts | {f"_{name}": np.array([shot.name == name for shot in shots]) for name in DISTORTIONS}


def _mean(values: npt.NDArray[np.bool_], shots: Sequence[_Shot], chosen: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Return float64 (M,): the mean of the chosen shots of values (M, S), each distortion and strength alike."""
    draws: dict[tuple[str, int], list[int]] = {}
    for at in chosen.nonzero()[0].tolist():
        draws.setdefault((shots[at].name, shots[at].strength), []).append(at)
    # One shot after the other: a product of matrices may depend on the number of rows.
    total: npt.NDArray[Any] = np.zeros(len(values))
    for numbers in draws.values():
        total += sum(values[:, at].astype(np.int64) for at in numbers) / len(numbers)
    return total / len(draws)


def _stays(
    shots: Sequence[_Shot], stays: npt.NDArray[np.bool_], correct: npt.NDArray[np.bool_]
) -> dict[str, npt.NDArray[Any]]:
    return {
        f"clean_stays_correct{end}": np.where(correct, _mean(stays, shots, chosen), np.nan)
        for end, chosen in _parts(shots).items()
    }


def _survives(
    family: str,
    shots: Sequence[_Shot],
    survives: npt.NDArray[np.bool_],
    broken: npt.NDArray[np.bool_],
    rows: npt.NDArray[np.int64],
    n: int,
) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a family: `survives` and `broken` (M, S) say what fools, and which clean image is lost."""
    count = np.bincount(rows, minlength=n)
    columns: dict[str, npt.NDArray[Any]] = {f"{family}_attacked": count > 0}
    for end, chosen in _parts(shots).items():
        share, lost = _mean(survives, shots, chosen), _mean(broken, shots, chosen)
        columns[f"{family}_survives{end}"] = mean_of_rows(share, rows, n)
        if end.startswith("@"):
            columns[f"{family}_excess{end}"] = mean_of_rows(share - lost, rows, n)
    return columns


def _exhibit(
    attacked: Pictures,
    at: int,
    labels: tuple[int, int],
    share: float,
    shot: _Shot,
    key: str,
    samples: Samples,
    ctx: Context,
) -> Exhibit:
    row = int(attacked.rows[at])
    image = attacked.images[at : at + 1]
    distorted = _distorted(shot, image, attacked.rows[at : at + 1], samples, ctx)[0]
    label = int(samples.labels[row])
    true, taken, then = (ctx.class_name(name) for name in (label, *labels))
    fate = "the attack is lost" if labels[1] == label else "the attack survives"
    caption = (
        f"{key}: {true} is taken for {taken}, and once photographed (strength {shot.strength}) for {then}: {fate}; "
        f"it survives {share:.0%} of all distortions"
    )
    panels = (
        image_panel(f"clean: {true}", samples.images[row]),
        image_panel(f"attacked: {taken}", image[0]),
        image_panel(f"photographed: {then}", distorted),
    )
    return Exhibit(samples.ids[row], caption, abs(share - 0.5), panels)
