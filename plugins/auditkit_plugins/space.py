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
    Budgets,
    Capability,
    Context,
    Curve,
    Exhibit,
    Findings,
    Metric,
    Model,
    Samples,
    Spec,
    Streams,
    ThreatModel,
    budget_text,
    cascade,
    image_panel,
)
from auditkit_plugins.camera.knobs import KNOBS, Ranges, changed, furthest, legal, transformed
from auditkit_plugins.space_search import TOGETHER, SpaceSearch, margin_of

__all__ = ["Space"]

# How much smaller the next success is wanted to be; less after a failure, more after a success.
_FIRST_CUT, _LARGEST_CUT, _LESS_CUT, _MORE_CUT = 0.5, 0.5, 0.6, 1.3
# Of the candidates of the shrinking search: these aim at a smaller size, the others at a lower margin of the same.
_SMALLER = 5
_SHRINK_REACH = 0.3
_EXHIBITS = 8
# A float32 that was cut off at a budget may lie a little above it.
_ROUNDING = 1 + 1e-6


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
        findings = cascade((SpaceSearch(self.eps[-1:], self.ranges, self.queries),), model, samples, ctx)
        device = samples.images.device
        settings = torch.from_numpy(np.stack([findings.columns[name] for name in KNOBS], 1)).float().to(device)
        classes = torch.from_numpy(findings.columns["attacked_label"]).to(device)
        rows = settings.isfinite().all(1).nonzero().flatten()
        smallest = settings.clone()
        if len(rows):
            smallest[rows], classes[rows] = self._made_smaller(model, samples, rows, settings[rows], ctx)
        asked = np.zeros(len(samples), dtype=np.int64)
        asked[rows.cpu().numpy()] = 1 + self._rounds * TOGETHER
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
        return math.ceil(self.shrinking / TOGETHER)

    def _columns(self, settings: Tensor, prefix: str) -> Mapping[str, npt.NDArray[Any]]:
        """Return the knobs (NaN where nothing is known), and how far the one that was used most is along its range."""
        measured = self.ranges.measured(settings).cpu().numpy()
        columns = {prefix + name: measured[:, at] for at, name in enumerate(KNOBS)}
        return columns | {prefix + "size": furthest(settings).double().cpu().numpy()}

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
        clean = samples.images.repeat_interleave(TOGETHER, 0)
        labels = samples.labels.repeat_interleave(TOGETHER)
        logits = model.logits(transformed(samples.images, settings, self.ranges))
        margin, classes = margin_of(logits, samples.labels), logits.argmax(1)
        fooled = classes != samples.labels
        cut = torch.full_like(margin, _FIRST_CUT)
        for number in range(self._rounds):
            ctx.check_time()
            many = self._smaller(samples.images, settings, cut, rng.uniform(number, (TOGETHER, 3, len(KNOBS))))
            logits = model.logits(transformed(clean, many.flatten(0, 1), self.ranges))
            margins = margin_of(logits, labels).view(-1, TOGETHER)
            fools = (logits.argmax(1) != labels).view(-1, TOGETHER)
            smaller = fools & (torch.arange(TOGETHER, device=fools.device) < _SMALLER)
            any_smaller = smaller.any(1)
            # What is smaller comes first; of the same kind, what fools most clearly.
            eligible = torch.where(any_smaller.unsqueeze(1), smaller, fools & (margins < margin.unsqueeze(1)))
            least, at = torch.where(eligible, margins, torch.inf).min(1)
            moved = eligible.any(1)
            settings = torch.where(moved.unsqueeze(1), _picked(many, at), settings)
            classes = torch.where(moved, _picked(logits.argmax(1).view(-1, TOGETHER), at), classes)
            margin = torch.where(moved, least, margin)
            fooled = fooled | moved
            cut = torch.where(any_smaller, (cut * _MORE_CUT).clamp(max=_LARGEST_CUT), cut * _LESS_CUT)
        return torch.where(fooled.unsqueeze(1), settings, torch.nan), classes

    def _smaller(self, images: Tensor, settings: Tensor, cut: Tensor, draws: Tensor) -> Tensor:
        """Return (N, 8, 8): candidates in a smaller box about no change, then some in the box of the present size."""
        size = furthest(settings)
        target = size * (1 - cut)
        scaled = settings * (1 - cut).unsqueeze(1)
        bounded = legal(images, settings.unsqueeze(1), target, self.ranges)[:, 0]
        moved = changed(draws, settings, _SHRINK_REACH * size.view(-1, 1, 1), size.view(-1, 1, 1))
        aimed = legal(images, moved[:, : _SMALLER - 2], target, self.ranges)
        around = legal(images, moved[:, _SMALLER - 2 : TOGETHER - 2], size, self.ranges)
        return torch.cat([scaled.unsqueeze(1), bounded.unsqueeze(1), aimed, around], 1)

    def _exhibits(self, samples: Samples, settings: Tensor, classes: Tensor, ctx: Context) -> tuple[Exhibit, ...]:
        """Show the images that the smallest transformations fool; `settings` (N, 8) are NaN where none does."""
        size = furthest(settings)
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


SpaceSearch.spec = Space.spec


def _picked(values: Tensor, at: Tensor) -> Tensor:
    return values[torch.arange(len(at), device=at.device), at]
