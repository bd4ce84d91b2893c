"""Did the gradient attack search long enough, and does it succeed at all where nothing limits it?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from auditkit import (
    CLEAN_LOGITS,
    Budgets,
    Capability,
    Context,
    Findings,
    FlagRule,
    Metric,
    Model,
    Origin,
    Samples,
    Spec,
    budget_text,
)
from auditkit_plugins.pgd import PGD, PGDState

__all__ = ["Convergence"]

# The whole range of colours: every image may become every other one.
_UNBOUNDED = 1.0
# Fewer steps would not cross it, whatever the gradients.
_LEAST_UNBOUNDED_STEPS = 10
_HIDDEN = frozenset({Capability.GRADIENTS})


@dataclass(frozen=True)
class Convergence:
    """Let a gradient attack go without a budget, and with twice its steps."""

    spec: ClassVar[Spec] = Spec(
        id="sanity.convergence",
        title="Gradient attacks ran long enough, and succeed where nothing limits them",
        why=(
            "A gradient attack that may change every pixel as it likes must fool any model: where it does not, it does "
            "not find its way, and what it reports at small budgets means nothing. And an attack that finds more when "
            "it is given more steps had too few of them."
        ),
        metrics=(
            Metric(
                "unbounded_survivors",
                "unbounded_survivor",
                "Images that gradients do not fool although every pixel may change at will",
                among="clean_correct",
            ),
            Metric(
                "unconverged",
                "unconverged",
                "Images that twice the steps fool at a budget where the steps alone do not",
                among="clean_correct",
            ),
        ),
        needs=_HIDDEN,
        flags=(
            FlagRule(
                "sanity.unbounded",
                "unbounded_survivors",
                above=0.02,
                text="A gradient attack without any budget does not fool all images. Gradients do not lead away from "
                "the true class: robust accuracy under gradient attacks says nothing about the model.",
                remedy="Look for rounding, binarisation, saturation or a detached computation in the model; read the "
                "results of attacks without gradients instead.",
                doubts=_HIDDEN,
            ),
            FlagRule(
                "sanity.unconverged",
                "unconverged",
                above=0.05,
                text="With twice the steps the gradient attack fools images that it does not fool otherwise: it had "
                "not converged.",
                remedy="Raise the steps of gradient attacks (and of this check, with steps) until this flag goes down.",
            ),
        ),
        references=("Carlini et al. 2019, section 4, https://arxiv.org/abs/1902.06705",),
        presets={"standard": {}, "full": {"steps": 100, "eps": "1/255, 2/255, 4/255, 8/255"}},
    )

    eps: Budgets = (2 / 255, 8 / 255)
    """The L-inf budgets at which the steps are doubled."""
    steps: Annotated[int, Field(ge=1)] = 20
    """The steps that are doubled; without a budget at least 10 are taken."""

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Attack without a budget, then at each budget with the steps and with twice as many."""
        correct = (ctx.shelf.get(CLEAN_LOGITS).argmax(1) == samples.labels).cpu().numpy()
        far = max(self.steps, _LEAST_UNBOUNDED_STEPS)
        unbounded = _FromTheImage(eps=(_UNBOUNDED,), steps=far, give_up=False).run(model, samples, ctx)
        once = PGD(eps=self.eps, steps=self.steps).run(model, samples, ctx)
        twice = PGD(eps=self.eps, steps=2 * self.steps).run(model, samples, ctx)
        unconverged = np.zeros(len(samples), dtype=bool)
        for eps in self.eps:
            column = f"fooled@{budget_text(eps)}"
            unconverged |= twice.columns[column] & ~once.columns[column]
        return Findings(
            {
                "clean_correct": correct,
                "unbounded_survivor": correct & ~unbounded.columns["fooled"],
                "unconverged": unconverged,
            },
            forwards=_sum(unbounded.forwards, once.forwards, twice.forwards),
            backwards=_sum(unbounded.backwards, once.backwards, twice.backwards),
        )


class _FromTheImage(PGD):
    """PGD that starts at the image itself: a random image often is fooled without any gradient."""

    def start(self, origin: Origin) -> PGDState:
        return super().start(replace(origin, points=origin.images, warm=torch.ones_like(origin.warm)))


def _sum(*counts: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
    total: npt.NDArray[np.int64] = np.sum([count for count in counts if count is not None], axis=0, dtype=np.int64)
    return total
