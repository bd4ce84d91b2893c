"""The gallery of `explain.reasons`: the images that are right, or wrong, for the worst reasons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from auditkit import Context, Exhibit, Samples, image_panel, overlay_panel
from auditkit_plugins.outline import outlined
from auditkit_plugins.relevance import Relevance

__all__ = ["worst_images"]

Columns = Mapping[str, npt.NDArray[Any]]


def worst_images(
    samples: Samples, masks: Tensor, found: Relevance, predicted: Tensor, columns: Columns, ctx: Context, count: int
) -> tuple[Exhibit, ...]:
    """Return `count` exhibits: first the images with the least relevance on the object, then the least faithful maps.

    `columns` are those of the check, `masks` (N, H, W) say where the objects are, `predicted` is int64 (N,).
    """
    scores = _badness(columns)
    ranked = sorted(range(len(samples)), key=lambda row: (-scores[row], samples.ids[row]))
    exhibits = []
    for row in ranked[:count]:
        true, taken = ctx.class_name(int(samples.labels[row])), ctx.class_name(int(predicted[row]))
        verdict = f"{true}, recognised" if true == taken else f"{true} is taken for {taken}"
        panels = (
            image_panel(f"image: {true}", outlined(samples.images[row], masks[row])),
            overlay_panel(f"{found.name} for {taken}", samples.images[row], found.maps[row]),
        )
        exhibits.append(Exhibit(samples.ids[row], f"{verdict}; {_words(columns, row)}", float(scores[row]), panels))
    return tuple(exhibits)


def _badness(columns: Columns) -> npt.NDArray[np.float64]:
    """Return (N,): above 1 the less relevance is on the object; below, where that is unknown, the less faithful."""
    gain = columns["insertion"] - columns["insertion_control"] - columns["deletion"] + columns["deletion_control"]
    unfaithful = (1 - np.where(columns["traced"], gain, 1.0) / 2) / 2
    scores: npt.NDArray[np.float64] = np.where(columns["measured"], 1 + 1 / (1 + columns["ratio"]), unfaithful)
    return scores


def _words(columns: Columns, row: int) -> str:
    if columns["measured"][row]:
        mass, area, ratio = (float(columns[name][row]) for name in ("relevance_mass", "pointing_chance", "ratio"))
        stays = "stays" if columns["background_suffices"][row] else "changes"
        return (
            f"{mass:.0%} of the relevance lies on the object, which covers {area:.0%} of the image ({ratio:.2f} times "
            f"that); with the object covered the answer {stays}"
        )
    if columns["traced"][row]:
        deletion, control = (float(columns[name][row]) for name in ("deletion", "deletion_control"))
        return f"deletion {deletion:.2f}, for the control {control:.2f}"
    return "it is not known where the object is"
