"""Attacks by natural means: turn, move, enlarge, light, recolour or blur an image, and find the least that fools."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    ATTACK_FLAGS,
    ATTACK_METRICS,
    CONTROL_METRIC,
    Attack,
    Budgets,
    Capability,
    Context,
    Curve,
    Exhibit,
    Findings,
    Metric,
    Model,
    Origin,
    Queries,
    Samples,
    Spec,
    Streams,
    ThreatModel,
    budget_text,
    cascade,
    image_panel,
)
from auditkit_plugins.camera.focus import blurred
from auditkit_plugins.camera.geometry import pixels, placed, seen
from auditkit_plugins.camera.light import contrasted, exposed, recoloured

__all__ = ["Space", "SpaceState", "transformed"]

KNOBS = ("turn", "right", "down", "zoom", "brightness", "contrast", "hue", "blur")
_COLOURS = 3
# Candidates that are asked about together, and the levels at which each knob is tried alone. Blur has no other side.
_TOGETHER = 8
_GRID = (-1.0, -0.5, 0.5, 1.0)
_BLUR_GRID = (0.25, 0.5, 0.75, 1.0)
# How often a knob is set anew, how often anywhere rather than near by, and how near at first and at last.
_CHANGED, _ANYWHERE = 0.3, 0.4
_FIRST_REACH, _LAST_REACH = 0.4, 0.05
# How much smaller the next success is wanted to be; less after a failure, more after a success.
_FIRST_CUT, _LARGEST_CUT, _LESS_CUT, _MORE_CUT = 0.5, 0.5, 0.6, 1.3
# Of the candidates of the shrinking search: these aim at a smaller size, the others at a lower margin of the same.
_SMALLER = 5
_SHRINK_REACH = 0.3
_EXHIBITS = 8
# A float32 that was cut off at a budget may lie a little above it.
_ROUNDING = 1 + 1e-6


@dataclass(frozen=True)
class Ranges:
    """How far each means goes at most; 0 (or 1 for a factor) takes it away."""

    turn: float
    shift: float
    zoom: float
    brightness: float
    contrast: float
    hue: float
    blur: float

    @property
    def used(self) -> tuple[bool, ...]:
        """Whether each knob does anything."""
        shift = self.shift > 0
        factors = (factor > 1 for factor in (self.zoom, self.brightness, self.contrast))
        return (self.turn > 0, shift, shift, *factors, self.hue > 0, self.blur > 0)

    def measured(self, settings: Tensor) -> Tensor:
        """Return float64 (N, 8): settings as degrees (turn, hue), shares of the shorter side, and factors."""
        turn, right, down, zoom, brightness, contrast, hue, blur = settings.double().unbind(1)
        factors = [
            torch.exp(setting * math.log(most))
            for setting, most in ((zoom, self.zoom), (brightness, self.brightness), (contrast, self.contrast))
        ]
        shifts = [right * self.shift, down * self.shift]
        return torch.stack([turn * self.turn, *shifts, *factors, hue * self.hue, blur * self.blur], 1)


def transformed(images: Tensor, settings: Tensor, ranges: Ranges) -> Tensor:
    """Return images (N, C, H, W), each with its own `settings` (N, 8) of the knobs in [-1, 1] of their ranges.

    It is turned, moved and enlarged, then blurred, then lit, its contrast and its colours changed.
    """
    side = min(images.shape[2:])
    turn, right, down, zoom, brightness, contrast, hue, blur = ranges.measured(settings).unbind(1)
    moved = seen(images, placed(pixels(images), turn.deg2rad(), down * side, right * side, zoom))
    soft = blurred(moved, blur * side, ranges.blur * side) if ranges.blur else moved
    return recoloured(contrasted(exposed(soft, brightness), contrast), hue.deg2rad())


@dataclass(frozen=True)
class SpaceState:
    """The best transformation of each row."""

    images: Tensor
    clean: Tensor
    labels: Tensor
    eps: Tensor
    step: Tensor
    margin: Tensor
    settings: Tensor
    """float32 (N, 8): the knobs at `images`, as shares of their ranges."""
    lowest: Tensor
    """float32 (N, 8): the lowest margin that each knob reached alone."""
    levels: Tensor
    """float32 (N, 8): at which setting."""
    rng: Streams


@dataclass(frozen=True)
class _Search(Attack):
    """Try each knob alone, then the best of them together, then random changes of the best setting."""

    spec: ClassVar[Spec]
    eps: Budgets
    ranges: Ranges
    queries: int

    @property
    def norm(self) -> Literal["free"]:
        """No norm measures what was done: the search itself keeps to the ranges."""
        return "free"

    @property
    def steps(self) -> int:
        """One for each few candidates."""
        return math.ceil(self.queries / _TOGETHER)

    @property
    def marks(self) -> tuple[str, ...]:
        """The knobs, as shares of their ranges."""
        return KNOBS

    def start(self, origin: Origin) -> SpaceState:
        """Start at the image as it is."""
        n = len(origin.images)
        never = torch.full_like(origin.eps, torch.inf)
        return SpaceState(
            images=origin.images,
            clean=origin.images,
            labels=origin.labels,
            eps=origin.eps,
            step=torch.zeros_like(origin.labels),
            margin=never,
            settings=origin.images.new_zeros((n, len(KNOBS))),
            lowest=never.unsqueeze(1).expand(-1, len(KNOBS)).clone(),
            levels=origin.images.new_zeros((n, len(KNOBS))),
            rng=origin.rng,
        )

    def step(self, model: Queries, state: SpaceState) -> SpaceState:
        """Ask about the next candidates, and keep the best setting so far."""
        candidates = self._proposed(state)
        many = candidates.flatten(0, 1)
        images = transformed(state.clean.repeat_interleave(_TOGETHER, 0), many, self.ranges)
        margins = _margin(model.logits(images, many), state.labels.repeat_interleave(_TOGETHER)).view(-1, _TOGETHER)
        least, at = margins.min(1)
        better = least < state.margin
        chosen = at + _TOGETHER * torch.arange(len(at), device=at.device)
        on_grid = (state.step < len(_GRID)).unsqueeze(1)
        lower = on_grid & (margins < state.lowest)
        return replace(
            state,
            images=torch.where(better.view(-1, 1, 1, 1), images[chosen], state.images),
            settings=torch.where(better.unsqueeze(1), many[chosen], state.settings),
            margin=torch.where(better, least, state.margin),
            lowest=torch.where(lower, margins, state.lowest),
            levels=torch.where(lower, candidates.diagonal(dim1=1, dim2=2), state.levels),
            step=state.step + 1,
        )

    def control(self, origin: Origin) -> Tensor:
        """Set every knob at random."""
        draws = 2 * origin.rng.uniform(0, (1, len(KNOBS))) - 1
        return transformed(origin.images, _legal(origin.images, draws, origin.eps, self.ranges)[:, 0], self.ranges)

    def _proposed(self, state: SpaceState) -> Tensor:
        """Return float32 (N, 8, 8): the settings of a few candidates."""
        levels = state.images.new_tensor([_GRID] * (len(KNOBS) - 1) + [_BLUR_GRID])
        grid = torch.diag_embed(levels.T)[state.step.clamp(max=len(_GRID) - 1)]
        rank = state.lowest.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        count = torch.arange(_TOGETHER, device=rank.device).view(1, -1, 1)
        together = torch.where(rank.unsqueeze(1) <= count, state.levels.unsqueeze(1), 0.0)
        # Powers of float32 may differ in the last bit between a lone value and one of many.
        done = (state.step.double() / self.steps).clamp(max=1)
        eps = state.eps.view(-1, 1, 1)
        reach = eps * (_FIRST_REACH * (_LAST_REACH / _FIRST_REACH) ** done).float().view(-1, 1, 1)
        near = _changed(state.rng.uniform(state.step, (_TOGETHER, 3, len(KNOBS))), state.settings, reach, eps)
        step = state.step.view(-1, 1, 1)
        asked = torch.where(step < len(_GRID), grid, torch.where(step == len(_GRID), together, near))
        # The grid is in shares of the budget; the others are settings already.
        share = torch.where(step < len(_GRID), eps, 1.0)
        return _legal(state.images, asked * share, state.eps, self.ranges)


@dataclass(frozen=True)
class Space:
    """Search the natural transformations of each image for one that fools, then for the smallest one that does."""

    spec: ClassVar[Spec] = Spec(
        id="physical.space",
        title="Turning, moving, lighting or blurring an image a little does not change predictions",
        why=(
            "No attacker needs to touch pixels: a sign may hang askew, be photographed from nearer, at dusk, out of "
            "focus. These are changes that no one would call noise, and no norm measures. The search finds the worst "
            "of them within limits in which a person sees the same thing, and then the smallest that still fools. A "
            "random transformation from the same limits stands beside it: what that does needs no attacker."
        ),
        metrics=(
            *(metric for metric in ATTACK_METRICS if metric.name != "distance"),
            CONTROL_METRIC,
            Metric(
                "median_size",
                "smallest",
                "Median size of the smallest transformation that fools, as a share of the range",
                "median",
                among="fooled",
            ),
        ),
        needs=frozenset({Capability.SCORES}),
        curves=(
            Curve(
                "robust_accuracy",
                "Robust accuracy over the size of the transformation",
                "share of the range",
                column="smallest",
                among="clean_correct",
            ),
        ),
        flags=ATTACK_FLAGS,
        references=(
            "Engstrom et al. 2019, https://arxiv.org/abs/1712.02779",
            "Zeng et al. 2019, https://arxiv.org/abs/1711.07183",
        ),
        presets={
            "smoke": {"queries": 40, "shrinking": 0},
            "standard": {"eps": "0.25, 0.5, 1", "queries": 200, "shrinking": 120},
            "full": {"eps": "0.1, 0.25, 0.5, 0.75, 1", "queries": 1000, "shrinking": 800},
        },
    )

    eps: Budgets = (1.0,)
    """How much of every range may be used, at most 1; several give several budgets."""
    queries: Annotated[int, Field(ge=1)] = 400
    """Queries of the search for a transformation that fools."""
    shrinking: Annotated[int, Field(ge=0)] = 200
    """Queries of the search for a smaller one, for each image that was fooled; 0 leaves it out."""
    turn: Annotated[float, Field(ge=0, le=180)] = 30.0
    """The largest rotation, in degrees, either way."""
    shift: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """The largest translation down or right, as a share of the shorter side."""
    zoom: Annotated[float, Field(ge=1, le=3)] = 1.2
    """The largest enlargement; its inverse is the smallest."""
    brightness: Annotated[float, Field(ge=1, le=5)] = 1.5
    """How many times the light there is at most; its inverse at least."""
    contrast: Annotated[float, Field(ge=1, le=5)] = 1.5
    """The strongest contrast about middle grey; its inverse is the weakest."""
    hue: Annotated[float, Field(ge=0, le=180)] = 20.0
    """The largest turn of the colours, in degrees; grey images have none."""
    blur: Annotated[float, Field(ge=0, le=0.2)] = 0.025
    """The largest deviation of the blur, as a share of the shorter side."""

    def __post_init__(self) -> None:
        """Refuse to search beyond the ranges, or without any.

        Raises:
            ValueError: a budget is zero or above one, or no transformation has a range.
        """
        if not all(0 < eps <= 1 for eps in self.eps):
            raise ValueError("a budget is a share of every range, above 0 and at most 1")
        if not any(self.ranges.used):
            raise ValueError("at least one transformation needs a range")

    @property
    def ranges(self) -> Ranges:
        """How far each means goes."""
        return Ranges(self.turn, self.shift, self.zoom, self.brightness, self.contrast, self.hue, self.blur)

    @property
    def norm(self) -> Literal["free"]:
        """No norm measures it."""
        return "free"

    @property
    def threat_models(self) -> tuple[ThreatModel, ...]:
        """What the attacker may do, smallest budget first."""
        return tuple(ThreatModel(self.norm, eps) for eps in self.eps)

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Search at the largest budget, and make smaller what fools there: that tells about the other budgets."""
        findings = cascade((_Search(self.eps[-1:], self.ranges, self.queries),), model, samples, ctx)
        device = samples.images.device
        settings = torch.from_numpy(np.stack([findings.columns[name] for name in KNOBS], 1)).float().to(device)
        classes = torch.from_numpy(findings.columns["attacked_label"]).to(device)
        rows = settings.isfinite().all(1).nonzero().flatten()
        smallest = settings.clone()
        if len(rows):
            smallest[rows], classes[rows] = self._made_smaller(model, samples, rows, settings[rows], ctx)
        asked = np.zeros(len(samples), dtype=np.int64)
        asked[rows.cpu().numpy()] = 1 + self._rounds * _TOGETHER
        columns = {name: column for name, column in findings.columns.items() if name not in KNOBS}
        columns |= self._columns(torch.where(smallest.isnan(), smallest, settings), "")
        columns |= self._columns(smallest, "smallest_")
        # Of a success without settings it is known only that it lies within the budget.
        size = columns.pop("smallest_size")
        size = np.where(np.isnan(size), self.eps[-1], size)
        columns["smallest"] = np.where(columns["fooled"], size, np.nan)
        for eps in self.eps[:-1]:
            inside = columns["fooled"] & (size <= eps * _ROUNDING)
            columns[f"fooled@{budget_text(eps)}"] = inside
            columns[f"robust@{budget_text(eps)}"] = columns["clean_correct"] & ~inside
        assert findings.forwards is not None  # noqa: S101 (a cascade counts)
        exhibits = self._exhibits(samples, smallest, classes, ctx)
        return replace(findings, columns=columns, exhibits=exhibits, forwards=findings.forwards + asked)

    @property
    def _rounds(self) -> int:
        return math.ceil(self.shrinking / _TOGETHER)

    def _columns(self, settings: Tensor, prefix: str) -> Mapping[str, npt.NDArray[Any]]:
        """Return the knobs (NaN where nothing is known), and how far the one that was used most is along its range."""
        measured = self.ranges.measured(settings).cpu().numpy()
        columns = {prefix + name: measured[:, at] for at, name in enumerate(KNOBS)}
        return columns | {prefix + "size": _size(settings).double().cpu().numpy()}

    def _made_smaller(
        self, model: Model, samples: Samples, rows: Tensor, settings: Tensor, ctx: Context
    ) -> tuple[Tensor, Tensor]:
        """Return the smallest settings (F, 8) found that fool these rows, and what they are taken for (F,).

        NaN where the deployed model is not fooled by any, not even by those that the search named.
        """
        found = []
        for start in range(0, len(rows), ctx.batch):
            part = rows[start : start + ctx.batch]
            chosen = samples.take(part.tolist())
            rng = ctx.streams(chosen.ids, "smaller")
            found.append(self._shrunk(model, chosen, settings[start : start + ctx.batch], rng, ctx))
        return torch.cat([best for best, _ in found]), torch.cat([classes for _, classes in found])

    def _shrunk(
        self, model: Model, samples: Samples, settings: Tensor, rng: Streams, ctx: Context
    ) -> tuple[Tensor, Tensor]:
        clean = samples.images.repeat_interleave(_TOGETHER, 0)
        labels = samples.labels.repeat_interleave(_TOGETHER)
        logits = model.logits(transformed(samples.images, settings, self.ranges))
        margin, classes = _margin(logits, samples.labels), logits.argmax(1)
        fooled = classes != samples.labels
        cut = torch.full_like(margin, _FIRST_CUT)
        for number in range(self._rounds):
            ctx.check_time()
            many = self._smaller(samples.images, settings, cut, rng.uniform(number, (_TOGETHER, 3, len(KNOBS))))
            logits = model.logits(transformed(clean, many.flatten(0, 1), self.ranges))
            margins = _margin(logits, labels).view(-1, _TOGETHER)
            fools = (logits.argmax(1) != labels).view(-1, _TOGETHER)
            smaller = fools & (torch.arange(_TOGETHER, device=fools.device) < _SMALLER)
            any_smaller = smaller.any(1)
            # What is smaller comes first; of the same kind, what fools most clearly.
            eligible = torch.where(any_smaller.unsqueeze(1), smaller, fools & (margins < margin.unsqueeze(1)))
            least, at = torch.where(eligible, margins, torch.inf).min(1)
            moved = eligible.any(1)
            settings = torch.where(moved.unsqueeze(1), _picked(many, at), settings)
            classes = torch.where(moved, _picked(logits.argmax(1).view(-1, _TOGETHER), at), classes)
            margin = torch.where(moved, least, margin)
            fooled = fooled | moved
            cut = torch.where(any_smaller, (cut * _MORE_CUT).clamp(max=_LARGEST_CUT), cut * _LESS_CUT)
        return torch.where(fooled.unsqueeze(1), settings, torch.nan), classes

    def _smaller(self, images: Tensor, settings: Tensor, cut: Tensor, draws: Tensor) -> Tensor:
        """Return (N, 8, 8): candidates in a smaller box about no change, then some in the box of the present size."""
        size = _size(settings)
        target = size * (1 - cut)
        scaled = settings * (1 - cut).unsqueeze(1)
        bounded = _legal(images, settings.unsqueeze(1), target, self.ranges)[:, 0]
        changed = _changed(draws, settings, _SHRINK_REACH * size.view(-1, 1, 1), size.view(-1, 1, 1))
        aimed = _legal(images, changed[:, : _SMALLER - 2], target, self.ranges)
        around = _legal(images, changed[:, _SMALLER - 2 : _TOGETHER - 2], size, self.ranges)
        return torch.cat([scaled.unsqueeze(1), bounded.unsqueeze(1), aimed, around], 1)

    def _exhibits(self, samples: Samples, settings: Tensor, classes: Tensor, ctx: Context) -> tuple[Exhibit, ...]:
        """Show the images that the smallest transformations fool; `settings` (N, 8) are NaN where none does."""
        size = _size(settings)
        fooled = size.isfinite().nonzero().flatten().tolist()
        ranked = sorted(fooled, key=lambda row: (float(size[row]), samples.ids[row]))
        exhibits = []
        for row in ranked[:_EXHIBITS]:
            image = transformed(samples.images[row : row + 1], settings[row : row + 1], self.ranges)[0]
            true, taken = ctx.class_name(int(samples.labels[row])), ctx.class_name(int(classes[row]))
            panels = (image_panel(f"clean: {true}", samples.images[row]), image_panel(f"transformed: {taken}", image))
            caption = f"{true} is taken for {taken}: {self._in_words(settings[row])}"
            exhibits.append(Exhibit(samples.ids[row], caption, 1 - float(size[row]), panels))
        return tuple(exhibits)

    def _in_words(self, settings: Tensor) -> str:
        """Return what was done to an image, without what was done too little to be told."""
        knobs = dict(zip(KNOBS, self.ranges.measured(settings.unsqueeze(0))[0].tolist(), strict=True))
        parts = (
            ("turned by {:.0f}°", knobs["turn"], 0.5, 0.0),
            ("moved right by {:.0%}", knobs["right"], 0.005, 0.0),
            ("moved down by {:.0%}", knobs["down"], 0.005, 0.0),
            ("enlarged {:.2f} times", knobs["zoom"], 0.005, 1.0),
            ("lit {:.2f} times", knobs["brightness"], 0.005, 1.0),
            ("contrast {:.2f} times", knobs["contrast"], 0.005, 1.0),
            ("hue turned by {:.0f}°", knobs["hue"], 0.5, 0.0),
            ("blurred by {:.1%}", knobs["blur"], 0.0005, 0.0),
        )
        told = [text.format(value) for text, value, least, none in parts if abs(value - none) >= least]
        return ", ".join(told) if told else "hardly changed at all"


_Search.spec = Space.spec


def _legal(images: Tensor, settings: Tensor, eps: Tensor, ranges: Ranges) -> Tensor:
    """Return settings (N, P, 8) within `eps` (N,), of the knobs that these images and ranges have."""
    used = [*ranges.used]
    used[KNOBS.index("hue")] &= images.shape[1] == _COLOURS
    bound = eps.view(-1, 1, 1) * settings.new_tensor(used)
    lowest = torch.where(settings.new_tensor([name == "blur" for name in KNOBS]) > 0, 0.0, -bound)
    return torch.minimum(torch.maximum(settings, lowest), bound)


def _changed(draws: Tensor, settings: Tensor, reach: Tensor, size: Tensor | float = 1.0) -> Tensor:
    """Return (N, P, 8): settings (N, 8) with some knobs set anew, by draws (N, P, 3, 8), near by or anywhere."""
    which, where, how = draws.unbind(2)
    near = settings.unsqueeze(1) + (2 * how - 1) * reach
    fresh = torch.where(where < _ANYWHERE, (2 * how - 1) * size, near)
    chosen = (which < _CHANGED) | (which == which.amin(2, keepdim=True))
    return torch.where(chosen, fresh, settings.unsqueeze(1))


def _size(settings: Tensor) -> Tensor:
    """Return float32 (N,): how far the knob that was turned furthest is along its range."""
    return settings.abs().amax(1)


def _picked(values: Tensor, at: Tensor) -> Tensor:
    return values[torch.arange(len(at), device=at.device), at]


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own - logits.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)
