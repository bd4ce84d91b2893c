"""Where the model looks once it is fooled: saliency of attacked images beside that of the clean ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_LOGITS,
    Capability,
    Context,
    Exhibit,
    Findings,
    Finished,
    Metric,
    Model,
    Samples,
    Spec,
    image_panel,
    overlay_panel,
    saliency,
)
from auditkit_plugins.attacked_images import FAMILIES, attacked_images, family_of
from auditkit_plugins.attention import overlap, shift
from auditkit_plugins.controls import moved
from auditkit_plugins.localisation import relevance_mass

__all__ = ["AttackedAttention"]

_MOVES = ("overlap", "overlap_control", "shift", "shift_control")
_ON_CHANGED = ("changed", "on_changed_before", "on_changed", "on_changed_control")
# As the control sees it: up to here an attack has a place, and what it changed can be cut out.
_MOST_CHANGED = 0.5
# What storing an image in 16 bits a channel may change.
_STORAGE = 1 / 65535


def _metrics(family: str, words: str) -> tuple[Metric, ...]:
    moves, small = f"{family}_mapped", f"{family}_small"
    return (
        Metric(
            f"{family}_overlap", f"{family}_overlap", f"{words}: what the maps before and after share", "mean", moves
        ),
        Metric(
            f"{family}_overlap_control",
            f"{family}_overlap_control",
            f"{words}: the same, for the perturbation moved elsewhere",
            "mean",
            moves,
        ),
        Metric(
            f"{family}_shift",
            f"{family}_shift",
            f"{words}: how far the centre of the map moves, as a share of the diagonal",
            "mean",
            moves,
        ),
        Metric(
            f"{family}_shift_control",
            f"{family}_shift_control",
            f"{words}: the same, for the perturbation moved elsewhere",
            "mean",
            moves,
        ),
        Metric(f"{family}_changed", f"{family}_changed", f"{words}: share of the pixels that changed", "mean", small),
        Metric(
            f"{family}_on_changed_before",
            f"{family}_on_changed_before",
            f"{words}: share of the clean image's saliency on the pixels that will change",
            "mean",
            small,
        ),
        Metric(
            f"{family}_on_changed",
            f"{family}_on_changed",
            f"{words}: share of the attacked image's saliency on the changed pixels",
            "mean",
            small,
        ),
        Metric(
            f"{family}_on_changed_control",
            f"{family}_on_changed_control",
            f"{words}: the same, for the perturbation moved elsewhere",
            "mean",
            small,
        ),
    )


@dataclass(frozen=True)
class AttackedAttention:
    """Map attacked images, and the same perturbations at other places, each for the class that the model sees."""

    spec: ClassVar[Spec] = Spec(
        id="explain.attacked",
        title="Attacks do not move what the model looks at",
        why=(
            "An attacked image looks the same to people, and another class to the model. Its saliency shows how that "
            "comes about: faint noise may leave the model looking at the object and seeing something else in it, while "
            "a sticker may draw all attention to itself. Whatever is changed in an image changes its saliency, though. "
            "So each attack stands beside a control: the same perturbation moved to another place, where it was not "
            "aimed."
        ),
        metrics=tuple(metric for family, words in FAMILIES.items() for metric in _metrics(family, words)),
        needs=frozenset({Capability.GRADIENTS}),
        reads=tuple(f"{family}.*" for family in FAMILIES),
        references=(
            "Simonyan et al. 2014, https://arxiv.org/abs/1312.6034",
            "Horváth 2020, Adversarial samples in machine learning (talk)",
        ),
        presets={"smoke": {}, "standard": {}, "full": {}},
    )

    gallery: Annotated[int, Field(ge=0)] = 8

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Compare the maps of all attacked images that fool with those of the clean images and of the controls."""
        assert model.exact is not None  # noqa: S101 (declared in the spec)
        predicted = ctx.shelf.get(CLEAN_LOGITS).argmax(1)
        clean = saliency(model.exact, samples.images, predicted)
        found: list[_Compared] = []
        exhibits: list[Exhibit] = []
        for key, finished in sorted(ctx.finished.items()):
            for images, rows in _attacked(finished, samples, ctx):
                part, maps = _compare(key, finished, model, samples, clean, images, rows, ctx)
                found.append(part)
                exhibits += _exhibits(part, images, maps, samples, clean, predicted, ctx, self.gallery)
        ctx.progress(len(samples))
        columns: dict[str, npt.NDArray[Any]] = {}
        for family in FAMILIES:
            columns |= _columns(family, [part for part in found if part.family == family], len(samples))
        attacked = np.zeros(len(samples), dtype=np.int64)
        for part in found:
            np.add.at(attacked, part.rows, 1)
        exhibits.sort(key=lambda one: (-one.score, one.sample, one.caption))
        # Each attacked image and its control: what the model takes it for, and its map.
        return Findings(columns, tuple(exhibits[: self.gallery]), 2 + 4 * attacked, 1 + 2 * attacked)


@dataclass(frozen=True)
class _Compared:
    """Some attacked images of a check, M of them."""

    key: str
    family: str
    rows: npt.NDArray[np.int64]
    """The numbers of their samples."""
    taken: npt.NDArray[np.int64]
    """The classes that the model takes them for."""
    values: dict[str, npt.NDArray[np.float64]]
    """(M,) by the ends of the columns' names; NaN where a map is zero, or where too much changed to have a place."""


def _attacked(finished: Finished, samples: Samples, ctx: Context) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the attacked images of a check that fool, and the numbers of their samples, a batch at a time."""
    if family_of(finished) not in FAMILIES:
        return
    pictures = attacked_images([finished], samples)
    for start in range(0, len(pictures.rows), ctx.batch):
        ctx.check_time()
        part = slice(start, start + ctx.batch)
        yield pictures.images[part], pictures.rows[part]


def _compare(
    key: str,
    finished: Finished,
    model: Model,
    samples: Samples,
    clean: Tensor,
    images: Tensor,
    rows: Tensor,
    ctx: Context,
) -> tuple[_Compared, Tensor]:
    """Compare attacked images with the clean ones, and return their maps, too."""
    assert model.exact is not None  # noqa: S101 (declared in the spec)
    originals = samples.images[rows]
    controls = moved(originals, images, ctx.streams([samples.ids[row] for row in rows.tolist()], f"moved {key}"))
    taken, taken_control = model.logits(images).argmax(1), model.logits(controls).argmax(1)
    maps, control_maps = saliency(model.exact, images, taken), saliency(model.exact, controls, taken_control)
    heats = [heat.double().cpu().numpy() for heat in (clean[rows], maps, control_maps)]
    changes = [_changed(originals, other).cpu().numpy() for other in (images, controls)]
    values = {name: np.full(len(rows), np.nan) for name in (*_MOVES, *_ON_CHANGED)}
    for at in range(len(rows)):
        for name, value in _values([heat[at] for heat in heats], [change[at] for change in changes]).items():
            values[name][at] = value
    return _Compared(key, family_of(finished), rows.cpu().numpy(), taken.cpu().numpy(), values), maps


def _changed(clean: Tensor, other: Tensor) -> Tensor:
    """Return bool (N, H, W): the pixels of which any channel differs by more than storage may change."""
    return ((other - clean).abs() > _STORAGE).any(1)


def _values(heats: list[npt.NDArray[np.float64]], changes: list[npt.NDArray[np.bool_]]) -> dict[str, float]:
    """Return the values of one attacked image from its maps (clean, attacked, control) and what changed in them."""
    if not all(heat.any() for heat in heats):
        return {}
    before, after, control = heats
    changed, changed_control = changes
    values = {
        "overlap": overlap(before, after),
        "overlap_control": overlap(before, control),
        "shift": shift(before, after),
        "shift_control": shift(before, control),
    }
    if 0 < changed.mean() <= _MOST_CHANGED:
        values["changed"] = float(changed.mean())
        values["on_changed_before"] = relevance_mass(before, changed)
        values["on_changed"] = relevance_mass(after, changed)
        values["on_changed_control"] = relevance_mass(control, changed_control)
    return values


def _columns(family: str, parts: Sequence[_Compared], n: int) -> dict[str, npt.NDArray[Any]]:
    """Return the mean over the attacks of a family for each of n samples; NaN where there is none."""
    columns: dict[str, npt.NDArray[Any]] = {}
    rows = np.concatenate([np.zeros(0, dtype=np.int64), *(part.rows for part in parts)])
    for names, counted in ((_MOVES, "mapped"), (_ON_CHANGED, "small")):
        for name in names:
            values = np.concatenate([np.zeros(0), *(part.values[name] for part in parts)])
            there = np.isfinite(values)
            count = np.bincount(rows[there], minlength=n)
            total = np.bincount(rows[there], weights=values[there], minlength=n)
            columns[f"{family}_{name}"] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        columns[f"{family}_{counted}"] = ~np.isnan(columns[f"{family}_{names[0]}"])
    return columns


def _exhibits(
    part: _Compared,
    images: Tensor,
    maps: Tensor,
    samples: Samples,
    clean: Tensor,
    predicted: Tensor,
    ctx: Context,
    count: int,
) -> Iterator[Exhibit]:
    """Yield `count` attacked images beside the clean ones: those whose maps have least in common."""
    common = part.values["overlap"]
    ranked = sorted(np.isfinite(common).nonzero()[0].tolist(), key=lambda at: (common[at], samples.ids[part.rows[at]]))
    for at in ranked[:count]:
        row = int(part.rows[at])
        before, after = ctx.class_name(int(predicted[row])), ctx.class_name(int(part.taken[at]))
        panels = (
            image_panel(f"clean: {before}", samples.images[row]),
            overlay_panel(f"saliency for {before}", samples.images[row], clean[row]),
            image_panel(f"attacked: {after}", images[at]),
            overlay_panel(f"saliency for {after}", images[at], maps[at]),
        )
        caption = f"{part.key}: {before} becomes {after}; the maps share {common[at]:.0%}, {_words(part, at)}"
        yield Exhibit(samples.ids[row], caption, 1 - float(common[at]), panels)


def _words(part: _Compared, at: int) -> str:
    control = f"those of the control {part.values['overlap_control'][at]:.0%}"
    if np.isnan(part.values["changed"][at]):
        return control
    changed, before, after = (float(part.values[name][at]) for name in ("changed", "on_changed_before", "on_changed"))
    return (
        f"{control}; the {changed:.1%} of the pixels that changed had {before:.1%} of the saliency and have {after:.1%}"
    )
