"""How little must change? The nearest success, by a trust region that follows the decision boundary."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    ATTACK_FLAGS,
    ATTACK_METRICS,
    Attack,
    Budgets,
    Capability,
    Curve,
    Metric,
    Origin,
    Queries,
    Spec,
)

__all__ = ["Minimal", "MinimalState"]

Length = Literal["linf", "l2", "l1"]

# How far the first and the last step may lead, as shares of the distance so far. In L1 few values carry the change,
# and the search must be able to take back any of them.
_RADIUS: Mapping[Length, tuple[float, float]] = {"linf": (0.3, 0.003), "l2": (0.3, 0.003), "l1": (1.0, 0.005)}
# The radius grows while the linear forecast of the margin holds, and shrinks where it does not.
_GOOD_FORECAST, _POOR_FORECAST = 0.03, 0.1
_GROWTH, _SHRINKAGE, _LARGEST_FACTOR, _SMALLEST_FACTOR = 1.2, 0.7, 3.0, 0.05
# By how much more than the margin a step aims to move: less after each success, more after each failure.
_FIRST_OVERSHOOT, _SMALLEST_OVERSHOOT, _LARGEST_OVERSHOOT = 0.02, 0.0005, 0.1
_LESS_OVERSHOOT, _MORE_OVERSHOOT = 0.7, 1.5
_BISECTIONS = 24
# How many other classes are looked at before the first move: so many at most, and this share of the steps at most.
_MOST_PROBES, _SHARE_OF_PROBES = 9, 0.1
_TINY = 1e-20


@dataclass(frozen=True)
class MinimalState:
    """Where each row stands, the forecast it was moved by, and how far it trusts the next."""

    images: Tensor
    clean: Tensor
    labels: Tensor
    step: Tensor
    forecast: Tensor
    """(N,): the margin that the last step aimed at; NaN before the first."""
    factor: Tensor
    overshoot: Tensor
    rivals: Tensor
    """int64 (N, P): the other classes to look at first, by their logits of the clean image."""
    slope: Tensor
    """(N, C * H * W): the slope toward the rival that is nearest so far."""
    aim: Tensor
    away: Tensor
    """(N,): how far that rival would be, were the model linear."""


@dataclass(frozen=True)
class Minimal(Attack):
    """Take the margin for linear near the current point, and go to the nearest point where it would be zero.

    The first steps look from the image itself at several other classes, and choose the one that seems nearest. From
    then on the next point is searched in a small box around the current one, and in [0, 1]. The box shrinks as the
    steps run out. A change that fools is made smaller, one that does not larger: the search follows the boundary.
    """

    spec: ClassVar[Spec] = Spec(
        id="noise.minimal",
        title="Predictions only change when much of the image changes",
        why=(
            "How little must change before the prediction does? The answer, image by image, says more than the share "
            "of images that fall at one budget: it gives the whole curve, shows which images hang by a thread, and "
            "needs no budget to be chosen beforehand."
        ),
        metrics=(
            *ATTACK_METRICS,
            Metric("median_distance", "distance", "Median distance of the nearest success", "median", among="found"),
        ),
        needs=frozenset({Capability.GRADIENTS}),
        curves=(
            Curve(
                "robust_accuracy",
                "Robust accuracy over the distance",
                "distance",
                column="distance",
                among="clean_correct",
            ),
        ),
        flags=ATTACK_FLAGS,
        references=(
            "Croce and Hein 2020 (FAB: the linearised boundary), https://arxiv.org/abs/1907.02044",
            "Pintor et al. 2021 (FMN), https://arxiv.org/abs/2102.12827",
            "Conn, Gould and Toint 2000, Trust Region Methods",
        ),
        presets={
            "standard": {"eps": "0.5/255, 1/255, 2/255, 4/255, 8/255", "steps": 50},
            "full": {"eps": "0.25/255, 0.5/255, 1/255, 2/255, 4/255, 8/255, 16/255", "steps": 200},
        },
    )
    eps: Budgets = (8 / 255,)
    """At which distances to state the robust accuracy; the search itself knows no budget."""
    norm: Length = "linf"
    steps: Annotated[int, Field(ge=2)] = 100
    restarts: Annotated[int, Field(ge=1)] = 1

    @property
    def goal(self) -> Literal["nearest"]:
        """The nearest success."""
        return "nearest"

    def start(self, origin: Origin) -> MinimalState:
        """Start at the image itself."""
        nothing = torch.full_like(origin.eps, torch.nan)
        others = origin.logits.scatter(1, origin.labels.unsqueeze(1), -torch.inf)
        probes = min(origin.logits.shape[1] - 1, _MOST_PROBES, max(int(self.steps * _SHARE_OF_PROBES), 1))
        return MinimalState(
            images=origin.images,
            clean=origin.images,
            labels=origin.labels,
            step=torch.zeros_like(origin.labels),
            forecast=nothing,
            factor=torch.ones_like(nothing),
            overshoot=torch.full_like(nothing, _FIRST_OVERSHOOT),
            rivals=others.argsort(dim=1, descending=True, stable=True)[:, :probes],
            slope=torch.zeros_like(origin.images).flatten(1),
            aim=torch.zeros_like(nothing),
            away=torch.full_like(nothing, torch.inf),
        )

    def step(self, model: Queries, state: MinimalState) -> MinimalState:
        """Ask about the point, and go to the nearest one that the linear margin calls fooled."""
        probes = state.rivals.shape[1]
        looking, first = state.step < probes, state.step < probes - 1
        rival = state.rivals.gather(1, state.step.clamp(max=probes - 1).unsqueeze(1)).squeeze(1)
        logits, gradient = model.gradient(state.images, _lead, state.labels, rival, looking)
        gap = -_lead(logits, state.labels, rival, looking)
        slope, change = gradient.flatten(1), (state.images - state.clean).flatten(1)
        aim = gap + (slope * change).sum(1)
        away = aim / _dual_length(slope, self.norm)
        nearer = ~looking | (away < state.away)
        slope, aim = torch.where(nearer.unsqueeze(1), slope, state.slope), torch.where(nearer, aim, state.aim)
        state = replace(state, slope=slope, aim=aim, away=torch.where(nearer, away, state.away))
        state = _trusted(state, gap)
        reach = torch.where(looking, 1.0, self._radius(state) * _length(change, self.norm))
        clean = state.clean.flatten(1)
        solve = _sparse if self.norm == "l1" else _even if self.norm == "linf" else _straight
        moved = solve(slope, aim * (1 + state.overshoot), change, reach, -clean, 1 - clean)
        # Where there is no slope there is nowhere to go; and not all classes were looked at yet.
        moved = torch.where((first | (slope == 0).all(1)).unsqueeze(1), change, moved)
        return replace(
            state,
            images=(state.clean + moved.view_as(state.clean)).clamp(0, 1),
            step=state.step + 1,
            forecast=torch.where(first, torch.nan, aim - (slope * moved).sum(1)),
        )

    def _radius(self, state: MinimalState) -> Tensor:
        """Return (N,): how far a row may go, as a share of its distance."""
        done = state.step / max(self.steps - 1, 1)
        falling = (1 + torch.cos(math.pi * done)) / 2
        first, last = _RADIUS[self.norm]
        return (last + (first - last) * falling) * state.factor


def _lead(logits: Tensor, labels: Tensor, rival: Tensor, looking: Tensor) -> Tensor:
    """Return (N,): by how much the largest other logit, or the rival's while `looking`, leads the true one."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    largest = logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
    return torch.where(looking, logits.gather(1, rival.unsqueeze(1)).squeeze(1), largest) - own


def _dual_length(slope: Tensor, norm: Length) -> Tensor:
    """Return (N,): by how much the margin falls when the image moves by 1 in this norm."""
    order = {"linf": 1.0, "l2": 2.0, "l1": math.inf}[norm]
    length: Tensor = torch.linalg.vector_norm(slope, ord=order, dim=1)
    return length.clamp_min(_TINY)


def _trusted(state: MinimalState, margin: Tensor) -> MinimalState:
    """Return the state with its trust adapted to how well the last forecast held."""
    error = (margin - state.forecast).abs() / state.aim.abs().clamp_min(_TINY)
    change = torch.where(error > _POOR_FORECAST, _SHRINKAGE, torch.where(error < _GOOD_FORECAST, _GROWTH, 1.0))
    overshoot = state.overshoot * torch.where(margin < 0, _LESS_OVERSHOOT, _MORE_OVERSHOOT)
    known = ~state.forecast.isnan()
    return replace(
        state,
        factor=torch.where(known, (state.factor * change).clamp(_SMALLEST_FACTOR, _LARGEST_FACTOR), state.factor),
        overshoot=torch.where(known, overshoot.clamp(_SMALLEST_OVERSHOOT, _LARGEST_OVERSHOOT), state.overshoot),
    )


def _length(change: Tensor, norm: Length) -> Tensor:
    """Return (N,): the largest change of a value; for l1 the sum of all changes."""
    return change.abs().sum(1) if norm == "l1" else change.abs().amax(1)


def _even(slope: Tensor, aim: Tensor, change: Tensor, reach: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the smallest change in L-inf with `slope * change >= aim`, in the box and near the current change."""
    return _bisected(slope.sign(), torch.ones_like(aim), slope, aim, change, reach, low, high)


def _straight(slope: Tensor, aim: Tensor, change: Tensor, reach: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the same for L2."""
    longest = slope.abs().amax(1).clamp_min(_TINY)
    return _bisected(slope / longest.unsqueeze(1), torch.ones_like(aim), slope, aim, change, reach, low, high)


def _bisected(
    direction: Tensor,
    longest: Tensor,
    slope: Tensor,
    aim: Tensor,
    change: Tensor,
    reach: Tensor,
    low: Tensor,
    high: Tensor,
) -> Tensor:
    """Return the shortest multiple of `direction`, clipped, that reaches the aim; the longest where none does."""
    lower, upper = torch.maximum(change - reach.unsqueeze(1), low), torch.minimum(change + reach.unsqueeze(1), high)
    short, long = torch.zeros_like(longest), longest
    for _ in range(_BISECTIONS):
        middle = (short + long) / 2
        clipped = torch.minimum(torch.maximum(middle.unsqueeze(1) * direction, lower), upper)
        enough = (slope * clipped).sum(1) >= aim
        long, short = torch.where(enough, middle, long), torch.where(enough, short, middle)
    return torch.minimum(torch.maximum(long.unsqueeze(1) * direction, lower), upper)


def _sparse(slope: Tensor, aim: Tensor, change: Tensor, reach: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return the smallest change in L1: each value is taken back as far as allowed, then the steepest are moved."""
    radius = reach.unsqueeze(1)
    back = change - torch.minimum(torch.maximum(change, -radius), radius)
    far = torch.where(slope > 0, torch.minimum(change + radius, high), torch.maximum(change - radius, low))
    gain = slope * (far - back)
    steepest = slope.abs().argsort(dim=1, descending=True, stable=True)
    sorted_gain = gain.gather(1, steepest)
    before = sorted_gain.cumsum(1) - sorted_gain
    missing = (aim - (slope * back).sum(1)).unsqueeze(1)
    share = ((missing - before) / sorted_gain.clamp_min(_TINY)).clamp(0, 1)
    return back + torch.zeros_like(slope).scatter(1, steepest, share) * (far - back)
