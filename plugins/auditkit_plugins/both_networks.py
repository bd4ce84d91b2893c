"""The same attacks on a network and on a copy of it with bounds: which images fool which, and what passes over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from auditkit import (
    CLEAN_LOGITS,
    Context,
    Differentiable,
    Findings,
    Model,
    Samples,
    Shelf,
    bounded_differentiable,
    bounded_model,
    from_16bit,
)
from auditkit_plugins.four_cells import cell_columns
from auditkit_plugins.joint_stickers import stickers_for_both
from auditkit_plugins.pgd import PGD
from auditkit_plugins.sticker import Sticker

__all__ = ["Attacked", "Pair", "Side", "attack_with_noise", "attack_with_stickers", "clean_columns"]

Bools = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Overflow = Literal["fold", "leak", "clip"]


@dataclass(frozen=True)
class Side:
    """One of the two networks, and what an attack on it is given."""

    model: Model
    search: Differentiable
    ctx: Context

    @classmethod
    def of(cls, model: Model, search: Differentiable, shelf: Shelf, ctx: Context) -> Side:
        """Return the side with a context of its own; the seed is the same for both."""
        return cls(model, search, replace(ctx, shelf=shelf, search=search))

    def correct(self) -> Bools:
        """Return bool (N,): the samples that it gets right."""
        right: Bools = (self.ctx.shelf.get(CLEAN_LOGITS).argmax(1) == self.ctx.shelf.samples.labels).cpu().numpy()
        return right


@dataclass(frozen=True)
class Pair:
    """A network and its bounded copy, on the same samples."""

    samples: Samples
    original: Side
    bounded: Side
    adaptive: Side
    """The bounded network as an attacker sees it whose gradients pass the bounds by (BPDA)."""

    @classmethod
    def of(
        cls,
        model: Model,
        samples: Samples,
        ctx: Context,
        trial: Tensor,
        bounds: Sequence[Tensor],
        overflow: Overflow,
    ) -> Pair:
        """Return both networks; the copies to search on are made from the same one. `trial` are images to try it on."""
        assert ctx.search is not None  # noqa: S101 (declared in the spec)
        changed = bounded_model(model, trial, bounds, overflow)
        search = bounded_differentiable(ctx.search, trial, bounds, overflow)
        adaptive = bounded_differentiable(ctx.search, trial, bounds, overflow, backward="unbounded")
        shelf = Shelf(changed, samples)
        return cls(
            samples,
            Side.of(model, ctx.search, ctx.shelf, ctx),
            Side.of(changed, search, shelf, ctx),
            Side.of(changed, adaptive, shelf, ctx),
        )


@dataclass(frozen=True)
class Attacked:
    """What an attack found on both sides."""

    columns: dict[str, npt.NDArray[Any]]
    on: tuple[Findings, ...]
    """The attack's own findings, on the original network first."""
    forwards: Counts
    backwards: Counts


def clean_columns(pair: Pair) -> dict[str, Bools]:
    """Return which unperturbed samples each network gets right; only what both get right stands in the cells."""
    before, after = pair.original.correct(), pair.bounded.correct()
    return {
        "clean_correct": before,
        "bounded_clean_correct": after,
        "clean_lost": before & ~after,
        "attacked_both": before & after,
    }


def attack_with_stickers(pair: Pair, attack: Sticker, attacked: Bools) -> Attacked:
    """Search stickers on each network, show them to the other, and search for what fools both."""
    on = tuple(attack.run(side.model, pair.samples, side.ctx) for side in (pair.original, pair.bounded))
    fooled, bounded_fooled = (findings.columns["fooled"] for findings in on)
    to_bounded = attacked & _transferred(on[0], pair.bounded.model, pair.samples)
    to_original = attacked & _transferred(on[1], pair.original.model, pair.samples)
    passed_over = to_bounded | to_original
    found, asked = _jointly(pair, attack, attacked & ~passed_over)
    columns = {
        "robust": on[0].columns["robust"],
        "bounded_robust": on[1].columns["robust"],
        "original_fooled": attacked & fooled,
        "bounded_fooled": attacked & bounded_fooled,
        "stickers_removed": attacked & fooled & ~bounded_fooled,
        "transfer_to_bounded": to_bounded,
        "transfer_to_original": to_original,
        "joint_success": passed_over | found,
        **cell_columns("fooled", attacked, fooled, bounded_fooled),
    }
    shown = sum(findings.columns["found"].astype(np.int64) for findings in on)
    return Attacked(columns, on, _passes(on, "forwards") + shown + asked, _passes(on, "backwards"))


def attack_with_noise(pair: Pair, attack: PGD, attacked: Bools) -> Attacked:
    """Search noise on each network, and on the bounded one once more with gradients that pass its bounds by."""
    on = tuple(
        # Draws of their own, not those of the stickers.
        attack.run(side.model, pair.samples, replace(side.ctx, key=f"{side.ctx.key} noise"))
        for side in (pair.original, pair.bounded, pair.adaptive)
    )
    fooled, by_own, by_adaptive = (findings.columns["fooled"] for findings in on)
    columns = {
        "noise_robust": on[0].columns["robust"],
        "bounded_noise_robust": on[1].columns["robust"],
        "bpda_robust": on[2].columns["robust"],
        "hidden_from_gradient": attacked & by_adaptive & ~by_own,
        **cell_columns("noise", attacked, fooled, by_own | by_adaptive),
    }
    return Attacked(columns, on, _passes(on, "forwards"), _passes(on, "backwards"))


def _passes(on: Sequence[Findings], name: Literal["forwards", "backwards"]) -> Counts:
    counts = [getattr(findings, name) for findings in on]
    total: Counts = np.sum(counts, axis=0)
    return total


def _transferred(findings: Findings, model: Model, samples: Samples) -> Bools:
    """Return which samples (N,) have stickers that were found against one model and fool this one, too."""
    assert findings.attacked is not None  # noqa: S101 (every attack gives its images)
    found = findings.columns["found"].nonzero()[0]
    rows = torch.from_numpy(found).to(samples.labels.device)
    labels = model.logits(from_16bit(findings.attacked, samples.images.device)).argmax(1)
    transferred = np.zeros(len(samples), dtype=bool)
    transferred[found] = (labels != samples.labels[rows]).cpu().numpy()
    return transferred


def _jointly(pair: Pair, attack: Sticker, wanted: Bools) -> tuple[Bools, Counts]:
    """Return for which of the `wanted` samples (N,) one set of stickers fools both, and the passes (N,) that took."""
    sides = pair.original, pair.bounded
    some = pair.samples.take(torch.from_numpy(wanted))
    searches = pair.original.search, pair.bounded.search
    images, passes = stickers_for_both(attack, searches, pair.original.model, some, pair.original.ctx)
    wrong = [side.model.logits(images).argmax(1) != some.labels for side in sides]
    found, asked = np.zeros(len(wanted), dtype=bool), np.zeros(len(wanted), dtype=np.int64)
    found[wanted] = (wrong[0] & wrong[1]).cpu().numpy()
    asked[wanted] = passes.cpu().numpy() + len(sides)
    return found, asked
