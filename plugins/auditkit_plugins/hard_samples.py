"""Which images fall most easily: what to look at, and what to train on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from auditkit import (
    CLEAN_LOGITS,
    Context,
    Exhibit,
    Findings,
    Finished,
    Metric,
    Model,
    Samples,
    Spec,
    from_16bit,
    image_panel,
)

__all__ = ["HardSamples"]

_EXHIBITS, _MOST_ATTACKS_SHOWN = 8, 4
# After so many steps an image counts as having withstood the whole of a budget but for the last moment.
_MANY_STEPS = 10_000

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HardSamples:
    """Rank images by how much it took to fool them, over all attacks of the audit."""

    spec: ClassVar[Spec] = Spec(
        id="samples.hard",
        title="No image is much easier to fool than the others",
        why=(
            "Some images hang by a thread: they fall at the smallest budget, after the first steps, to every attack. "
            "They lie where the model is unsure of its classes, so they are the ones to look at, to collect more of, "
            "and to train on, beside the attacked images themselves. `auditkit run --export DIR` writes both."
        ),
        metrics=(
            Metric("endurance", "endurance", "Mean share of the attackers' effort that an image withstands", "mean"),
            Metric("hard_share", "hard", "Images that withstand less than the chosen share, or are wrong when clean"),
        ),
        reads=("noise.*", "pixel.*", "patch.*", "physical.space"),
        references=("Horváth 2020, Adversarial samples in machine learning (talk)",),
        presets={"smoke": {}, "standard": {}, "full": {}},
    )

    below: Annotated[float, Field(ge=0, le=1)] = 0.25
    """An image is called hard where its endurance is lower."""

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Average what each attack says about each image."""
        correct = (ctx.shelf.get(CLEAN_LOGITS).argmax(1) == samples.labels).cpu().numpy()
        attacks = {key: one for key, one in ctx.finished.items() if "fooled" in one.columns}
        each = [_withstood(one.columns) for one in attacks.values()]
        endurance = np.where(correct, np.mean(each, axis=0) if each else 1.0, 0.0)
        fell_to = np.sum([one.columns["fooled"] for one in attacks.values()], axis=0, initial=0, dtype=np.int64)
        return Findings(
            {
                "endurance": endurance,
                "hard": endurance < self.below,
                "clean_correct": correct,
                "fell_to": np.broadcast_to(fell_to, correct.shape).copy(),
            },
            _exhibits(endurance, correct, attacks, samples, ctx),
        )


def _withstood(columns: Mapping[str, npt.NDArray[Any]]) -> Numbers:
    """Return (N,) in [0, 1]: the share of the budgets withstood, and within the one that fooled, of the steps.

    An image that fell at the k-th of n budgets (k from 0) after a share s of the most steps seen has (k + s) / n.
    """
    budgets = [name for name in columns if name.startswith("robust@")]
    withstood = np.sum([columns[name] for name in budgets], axis=0, dtype=np.float64)
    fooled = columns["fooled"].astype(bool)
    steps = np.where(fooled, columns["steps"], 0.0)
    # A logarithm, since a search that took twice as long was not twice as hard; and no look at other images.
    share = np.log1p(steps) / np.log1p(_MANY_STEPS)
    fraction = np.where(fooled, share.clip(0, 1), 0.0)
    endurance: Numbers = ((withstood + fraction) / max(len(budgets), 1)).clip(0, 1)
    return endurance


def _exhibits(
    endurance: Numbers, correct: npt.NDArray[np.bool_], attacks: dict[str, Finished], samples: Samples, ctx: Context
) -> tuple[Exhibit, ...]:
    """Show the images with the least endurance, each beside what the first attacks made of it."""
    ranked = sorted(correct.nonzero()[0].tolist(), key=lambda row: (endurance[row], samples.ids[row]))
    exhibits = []
    for row in ranked[:_EXHIBITS]:
        name = ctx.class_name(int(samples.labels[row]))
        panels = [image_panel(f"clean: {name}", samples.images[row])]
        for key, one in attacks.items():
            if one.attacked is None or not one.columns["fooled"][row] or len(panels) > _MOST_ATTACKS_SHOWN:
                continue
            at = int(one.columns["found"][:row].sum())
            taken = ctx.class_name(int(one.columns["attacked_label"][row]))
            panels.append(image_panel(f"{key}: {taken}", from_16bit(one.attacked[at : at + 1])[0]))
        caption = f"{name}: withstands {endurance[row]:.0%} of the attackers' effort"
        exhibits.append(Exhibit(samples.ids[row], caption, 1 - float(endurance[row]), tuple(panels)))
    return tuple(exhibits)
