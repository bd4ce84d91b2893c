"""The worst case over a cascade of attacks: what one attack misses, another finds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from auditkit import (
    ATTACK_CURVES,
    ATTACK_FLAGS,
    ATTACK_METRICS,
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
from auditkit_plugins.apgd import APGD
from auditkit_plugins.decision import Decision
from auditkit_plugins.minimal import Minimal
from auditkit_plugins.square import Square

__all__ = ["Worst"]

_PATIENCE = 2.0
_STAGES = {
    "by_gradient": "gradient steps",
    "by_target": "gradient steps toward one other class",
    "by_distance": "the search for the nearest success",
    "by_queries": "random search that sees scores only",
    "by_labels": "the search that sees labels only",
}


@dataclass(frozen=True)
class Worst:
    """Run strong attacks of different kinds one after the other, each on what the earlier ones left.

    Gradient steps, gradient steps toward each of several other classes, the search for the nearest success, and a
    random search that needs no gradients: the recipe of AutoAttack. A model without gradients meets the random search,
    one without scores the search that sees labels only.
    """

    spec: ClassVar[Spec] = Spec(
        id="noise.worst",
        title="Predictions withstand the strongest noise that a cascade of different attacks can find",
        why=(
            "One attack that fails proves little: it may be the wrong one for this model. This check takes, image by "
            "image, the worst of several attacks that fail for different reasons, with gradients and without. Its "
            "robust accuracy is the number to quote, to gate and to compare; it is still an upper bound."
        ),
        metrics=(
            *ATTACK_METRICS,
            *(
                Metric(name, name, f"Fooled images that fell to {stage} first", among="fooled")
                for name, stage in _STAGES.items()
            ),
        ),
        curves=ATTACK_CURVES,
        flags=ATTACK_FLAGS,
        references=(
            "Croce and Hein 2020 (AutoAttack), https://arxiv.org/abs/2003.01690",
            "Andriushchenko et al. 2020 (Square), https://arxiv.org/abs/1912.00049",
        ),
        presets={
            "standard": {"eps": "0.5/255, 1/255, 2/255, 4/255, 8/255", "steps": 50, "targets": 4, "queries": 1000},
            "full": {"eps": "0.25/255, 0.5/255, 1/255, 2/255, 4/255, 8/255, 16/255"},
        },
    )

    eps: Budgets = (8 / 255,)
    norm: Literal["linf", "l2"] = "linf"
    steps: Annotated[int, Field(ge=1)] = 100
    """Steps of each gradient search."""
    targets: Annotated[int, Field(ge=0)] = 9
    """How many other classes are steered toward, the likeliest first."""
    queries: Annotated[int, Field(ge=0)] = 5000
    """Queries of the search without gradients; 0 leaves it out."""

    @property
    def threat_models(self) -> tuple[ThreatModel, ...]:
        """What the attacker may do, smallest budget first."""
        return tuple(ThreatModel(self.norm, eps) for eps in self.eps)

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Run the cascade, and say which attack found what."""
        stages = self._stages(model)
        findings = cascade(tuple(stages.values()), model, samples, ctx)
        found_by = findings.columns["attack"]
        shares = {
            name: (found_by == list(stages).index(name)) if name in stages else found_by > len(stages)
            for name in _STAGES
        }
        return replace(findings, columns={**findings.columns, **shares})

    def _stages(self, model: Model) -> dict[str, Attack]:
        """Return the attacks that this model can be given, in order."""
        stages: dict[str, Attack] = {}
        if Capability.GRADIENTS in model.capabilities:
            stages["by_gradient"] = APGD(eps=self.eps, norm=self.norm, steps=self.steps)
            if self.targets:
                stages["by_target"] = APGD(
                    eps=self.eps, norm=self.norm, steps=self.steps, loss="targeted_margin", targets=self.targets
                )
            stages["by_distance"] = Minimal(eps=self.eps, norm=self.norm, steps=max(self.steps // 2, 2))
        if Capability.SCORES in model.capabilities and self.queries:
            # The images left have been searched before: less patience loses less than where this search stands alone.
            stages["by_queries"] = Square(eps=self.eps, norm=self.norm, queries=self.queries, patience=_PATIENCE)
        if not stages:
            stages["by_labels"] = Decision(eps=self.eps)
        return stages
