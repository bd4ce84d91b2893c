"""How few pixels must change before the prediction does: gradient steps first, random search for what they left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field

from auditkit import (
    ATTACK_CURVES,
    ATTACK_FLAGS,
    ATTACK_METRICS,
    CONTROL_METRIC,
    Attack,
    Budgets,
    Capability,
    Context,
    Findings,
    Metric,
    Model,
    Samples,
    Spec,
    ThreatModel,
    cascade,
)
from auditkit_plugins.sparse_gradient import SparseGradient
from auditkit_plugins.sparse_search import SparseSearch, require_whole

__all__ = ["FewPixels"]

_STAGES = {
    "by_gradient": "gradient steps toward few pixels",
    "by_queries": "random search that sees scores only",
}


@dataclass(frozen=True)
class FewPixels:
    """Look for the fewest pixels with gradients, then at random for sets smaller than that."""

    spec: ClassVar[Spec] = Spec(
        id="pixel.few",
        title="Predictions withstand the change of a few pixels",
        why=(
            "Dust, a dead sensor cell or a fleck of paint changes few pixels, and those by any amount. The number of "
            "pixels that it takes is a distance that anyone can picture. Two attacks that fail for different reasons "
            "look for it, image by image; as many random pixels stand beside them, to tell aim from bad luck."
        ),
        metrics=(
            *ATTACK_METRICS,
            CONTROL_METRIC,
            Metric("median_pixels", "distance", "Median number of pixels of the nearest success", "median", "fooled"),
            *(
                Metric(name, name, f"Fooled images that fell to {stage} first", among="fooled")
                for name, stage in _STAGES.items()
            ),
        ),
        needs=frozenset({Capability.SCORES}),
        curves=ATTACK_CURVES,
        flags=ATTACK_FLAGS,
        references=(
            "Cinà et al. 2025 (sigma-zero), https://arxiv.org/abs/2402.01879",
            "Croce et al. 2022 (Sparse-RS), https://arxiv.org/abs/2006.12834",
        ),
        presets={"standard": {"eps": "1, 3, 10", "steps": 50, "queries": 300}, "full": {}},
    )

    eps: Budgets = (1.0, 2.0, 3.0, 5.0, 10.0)
    """How many pixels may change."""
    steps: Annotated[int, Field(ge=1)] = 100
    """Steps of the gradient search."""
    queries: Annotated[int, Field(ge=1)] = 1000
    """Queries of each random search."""

    def __post_init__(self) -> None:
        """Refuse parts of a pixel."""
        require_whole(self.eps)

    @property
    def threat_models(self) -> tuple[ThreatModel, ...]:
        """What the attacker may do, smallest budget first."""
        return tuple(ThreatModel("l0", eps) for eps in self.eps)

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Run the cascade, and say which attack found what."""
        stages = self._stages(model)
        findings = cascade(tuple(stages.values()), model, samples, ctx)
        found_by = findings.columns["attack"]
        names = list(stages)
        shares = {name: found_by == (names.index(name) if name in stages else len(names)) for name in _STAGES}
        return replace(findings, columns={**findings.columns, **shares})

    def _stages(self, model: Model) -> dict[str, Attack]:
        """Return the attacks that this model can be given, in order."""
        stages: dict[str, Attack] = {}
        if Capability.GRADIENTS in model.capabilities:
            stages["by_gradient"] = SparseGradient(eps=self.eps, steps=self.steps)
        stages["by_queries"] = SparseSearch(eps=self.eps, queries=self.queries)
        return stages
