"""Is one pixel enough?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    ATTACK_FLAGS,
    ATTACK_METRICS,
    CONTROL_METRIC,
    Attack,
    Capability,
    Curve,
    Map,
    Metric,
    Origin,
    Queries,
    Spec,
)
from auditkit_plugins.pixel_evolution import Evolution
from auditkit_plugins.pixel_scan import Scan
from auditkit_plugins.pixels import PIXEL_MARKS, corner_colours, with_pixel

__all__ = ["OnePixel"]


@dataclass(frozen=True)
class OnePixel(Attack):
    """Search the one pixel, and its colour, that changes the prediction: by scanning, or by differential evolution."""

    spec: ClassVar[Spec] = Spec(
        id="pixel.one",
        title="No single pixel changes a prediction",
        why=(
            "Nobody would call a picture with one odd pixel another object. Where a model does, its decision hangs by "
            "a few very large activations rather than by what the picture shows. The share of images that fall, and "
            "where their pixels lie, tell how far a model can be led by the nose."
        ),
        metrics=(
            *ATTACK_METRICS,
            CONTROL_METRIC,
            Metric("confidence", "attacked_confidence", "Mean confidence in the wrong class", "mean", among="fooled"),
        ),
        needs=frozenset({Capability.SCORES}),
        curves=(
            Curve(
                "robust_accuracy",
                "Robust accuracy over the number of steps, each of several queries",
                "steps",
                column="steps",
                among="clean_correct",
            ),
        ),
        maps=(Map("Where the pixels that fool lie", "row", "column"),),
        flags=ATTACK_FLAGS,
        references=("Su, Vargas and Sakurai 2019, https://arxiv.org/abs/1710.08864",),
        presets={"smoke": {"queries": 64}, "standard": {"queries": 1024}, "full": {}},
    )

    search: Literal["scan", "evolution"] = "scan"
    queries: Annotated[int, Field(ge=16)] = 16_384
    """Of the scan, an image."""
    give_up: bool = True
    """Whether the scan leaves images early that stay far from another class."""
    population: Annotated[int, Field(ge=4)] = 400
    """Of the evolution: candidates in each generation."""
    generations: Annotated[int, Field(ge=0)] = 100
    """Of the evolution: after the first one."""

    @property
    def eps(self) -> tuple[float, ...]:  # type: ignore[override]
        """One pixel."""
        return (1.0,)

    @property
    def norm(self) -> Literal["l0"]:
        """One pixel, by any amount."""
        return "l0"

    @property
    def steps(self) -> int:
        """Some candidates a step."""
        return self._search.steps

    @property
    def marks(self) -> tuple[str, ...]:
        """Where the pixel lies, and its colour."""
        return PIXEL_MARKS

    def start(self, origin: Origin) -> Any:
        """Start at the image itself."""
        return self._search.start(origin)

    def step(self, model: Queries, state: Any) -> Any:
        """Ask about some pixels."""
        return self._search.step(model, state)

    def control(self, origin: Origin) -> Tensor:
        """Put a pixel of an extreme colour anywhere."""
        draws = origin.rng.uniform(0, (1, 3))
        colours = corner_colours(origin.images)
        chosen = colours[(draws[..., 2] * len(colours)).long()]
        return with_pixel(origin.images, torch.cat([draws[..., :2], chosen], 2))[0].squeeze(1)

    @property
    def _search(self) -> Scan | Evolution:
        if self.search == "scan":
            return Scan(self.queries, self.give_up)
        return Evolution(self.population, self.generations)
