"""Do the attacks' results fit together? Laws that hold between attacks wherever gradients mean something."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from auditkit import (
    CLEAN_LOGITS,
    Attack,
    Capability,
    Context,
    Findings,
    Finished,
    FlagRule,
    Metric,
    Model,
    Samples,
    Spec,
    budget_text,
)

__all__ = ["AttackSanity"]

Bools = npt.NDArray[np.bool_]

# A minimum-norm attack and one of a fixed budget may disagree about an image this close to the budget.
_NEAR_THE_BUDGET = 0.05
_HIDDEN = frozenset({Capability.GRADIENTS})


@dataclass(frozen=True)
class AttackSanity:
    """Compare attacks that ran on the same images: the weaker must not win, and more budget must not hurt."""

    spec: ClassVar[Spec] = Spec(
        id="sanity.attacks",
        title="The attacks agree with each other, so none of them failed unnoticed",
        why=(
            "An attack that fails leaves a model looking robust. Some orders must hold whatever the model: many steps "
            "do at least as well as one, gradients at least as well as queries without them, a larger budget at least "
            "as well as a smaller, and the nearest success lies inside exactly those budgets that an attack succeeds "
            "within. Where an order is violated, the attack on the losing side has not found what is there."
        ),
        metrics=(
            Metric(
                "black_box_wins",
                "black_box_wins",
                "Images that an attack without gradients fools and no gradient attack does, at the same budget",
                among="clean_correct",
            ),
            Metric(
                "single_step_wins",
                "single_step_wins",
                "Images that one gradient step fools and many do not, at the same budget",
                among="clean_correct",
            ),
            Metric(
                "distance_disagrees",
                "distance_disagrees",
                "Images whose nearest success contradicts the attack at a fixed budget",
                among="clean_correct",
            ),
            Metric(
                "not_monotone",
                "not_monotone",
                "Images that a check fools at one budget and calls robust at a larger one",
                among="clean_correct",
            ),
        ),
        reads=("*",),
        flags=(
            FlagRule(
                "sanity.black_box_wins",
                "black_box_wins",
                above=0.02,
                text="An attack that never sees a gradient fools images that gradient attacks with the same budget do "
                "not. The model hides its gradients (gradient masking): robust accuracy under gradient attacks is "
                "too high.",
                remedy="Believe noise.worst, or the attack without gradients; give gradient attacks more steps and "
                "restarts, and look for rounding, saturation or randomness in the model.",
                doubts=_HIDDEN,
            ),
            FlagRule(
                "sanity.single_step_wins",
                "single_step_wins",
                above=0.02,
                text="A single gradient step fools images that many steps, with the same budget, do not. The iterative "
                "attack lost its way, as it does where the loss is shattered.",
                remedy="Raise steps and restarts, try another loss, and believe the attacks without gradients.",
                doubts=_HIDDEN,
            ),
            FlagRule(
                "sanity.distance_disagrees",
                "distance_disagrees",
                above=0.05,
                text="The nearest successes and the attacks at fixed budgets contradict each other for many images: "
                "one of the two failed there.",
                remedy="Raise the steps of the weaker one (the report shows both curves); believe the lower curve.",
            ),
            FlagRule(
                "sanity.not_monotone",
                "not_monotone",
                above=0.0,
                text="A check fools images at one budget that it calls robust at a larger one. A larger budget "
                "contains the smaller, so its search at the larger one failed.",
                remedy="A fault of that check: report it to its author; believe its lowest robust accuracy.",
            ),
        ),
        references=(
            "Carlini et al. 2019, section 4, https://arxiv.org/abs/1902.06705",
            "Athalye et al. 2018, https://arxiv.org/abs/1802.00420",
        ),
        presets={"smoke": {}, "standard": {}, "full": {}},
    )

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Compare what the finished checks found on these samples."""
        correct = (ctx.shelf.get(CLEAN_LOGITS).argmax(1) == samples.labels).cpu().numpy()
        attacks = [one for one in ctx.finished.values() if isinstance(one.check, Attack)]
        fixed = [one for one in attacks if _attack(one).goal != "nearest"]
        white = [one for one in fixed if Capability.GRADIENTS in one.check.spec.needs]
        many = [one for one in white if _attack(one).steps > 1]
        single = [one for one in white if _attack(one).steps == 1]
        blind = [one for one in attacks if Capability.GRADIENTS not in one.check.spec.needs]
        nearest = [one for one in attacks if _attack(one).goal == "nearest" and one not in blind]
        nobody = np.zeros(len(samples), dtype=bool)
        return Findings(
            {
                "clean_correct": correct,
                "black_box_wins": _wins(blind, many + nearest, nobody),
                "single_step_wins": _wins(single, many, nobody),
                "distance_disagrees": _disagreement(nearest, many, nobody),
                "not_monotone": _falls_back(ctx.finished.values(), nobody),
            },
            forwards=np.zeros(len(samples), dtype=np.int64),
            backwards=np.zeros(len(samples), dtype=np.int64),
        )


def _attack(finished: Finished) -> Attack:
    assert isinstance(finished.check, Attack)  # noqa: S101 (the caller chose)
    return finished.check


def _by_budget(finished: list[Finished]) -> dict[tuple[str, str], Bools]:
    """Return which samples any of these attacks fools, for each norm and budget that all of them tried together."""
    fooled: dict[tuple[str, str], Bools] = {}
    for one in finished:
        attack = _attack(one)
        for eps in attack.eps:
            name = budget_text(eps)
            column = one.columns[f"fooled@{name}"].astype(bool)
            fooled[attack.norm, name] = fooled.get((attack.norm, name), False) | column
    return fooled


def _wins(weaker: list[Finished], stronger: list[Finished], nobody: Bools) -> Bools:
    """Return which samples the weaker attacks fool at a budget at which the stronger ones, tried there, do not."""
    wins = nobody
    strong = _by_budget(stronger)
    for key, fooled in _by_budget(weaker).items():
        if key in strong and key[0] != "free":
            wins = wins | (fooled & ~strong[key])
    return wins


def _disagreement(nearest: list[Finished], fixed: list[Finished], nobody: Bools) -> Bools:
    """Return which samples have a nearest success inside a budget at which nothing is found, or none where it is."""
    disagree = nobody
    for one in nearest:
        norm = _attack(one).norm
        distance = np.where(one.columns["found"], np.nan_to_num(one.columns["distance"], nan=np.inf), np.inf)
        for other in fixed:
            attack = _attack(other)
            for eps in attack.eps if attack.norm == norm else ():
                fooled = other.columns[f"fooled@{budget_text(eps)}"].astype(bool)
                inside = distance < eps * (1 - _NEAR_THE_BUDGET)
                outside = distance > eps * (1 + _NEAR_THE_BUDGET)
                disagree = disagree | (inside & ~fooled) | (outside & fooled)
    return disagree


def _falls_back(finished: Iterable[Finished], nobody: Bools) -> Bools:
    """Return which samples some check calls robust at one budget and fooled at a smaller one."""
    found = nobody
    for one in finished:
        budgets = getattr(one.check, "eps", ())
        names = [f"robust@{budget_text(eps)}" for eps in sorted(budgets)] if isinstance(budgets, tuple) else []
        columns = [one.columns[name].astype(bool) for name in names if name in one.columns]
        for smaller, larger in itertools.pairwise(columns):
            found = found | (larger & ~smaller)
    return found
