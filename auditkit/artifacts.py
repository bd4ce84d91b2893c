"""Values that several checks need: declared as recipes, computed once a shard, in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from auditkit.models.base import Model
    from auditkit.samples import Samples

__all__ = ["CLEAN_LOGITS", "Artifact", "Shelf"]


@dataclass(frozen=True)
class Artifact:
    """A recipe: a name and a pure function of the model and a shard of samples."""

    id: str
    compute: Callable[[Model, Samples], Tensor]


CLEAN_LOGITS = Artifact("clean.logits", lambda model, samples: model.logits(samples.images))
"""The deployed model's scores, float32 (N, K), on the unperturbed images."""


@dataclass
class Shelf:
    """The artifacts of one shard, each computed when it is first asked for."""

    model: Model
    samples: Samples
    _values: dict[Artifact, Any] = field(default_factory=dict)

    def get(self, artifact: Artifact) -> Tensor:
        """Return the artifact's value for this shard; callers must not change it."""
        if artifact not in self._values:
            self._values[artifact] = artifact.compute(self.model, self.samples)
        value: Tensor = self._values[artifact]
        return value
