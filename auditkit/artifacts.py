"""Values that several checks need: declared as recipes, computed once a shard, in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    from auditkit.samples import Samples

Value = TypeVar("Value")

__all__ = ["CLEAN_LOGITS", "Artifact", "Shelf"]


@dataclass(frozen=True)
class Artifact(Generic[Value]):
    """A recipe: a name and a pure function of the model (or detector) and a shard of samples."""

    id: str
    compute: Callable[[Any, Samples], Value]


CLEAN_LOGITS: Artifact[Tensor] = Artifact("clean.logits", lambda model, samples: model.logits(samples.images))
"""The deployed model's scores, float32 (N, K), on the unperturbed images."""


@dataclass
class Shelf:
    """The artifacts of one shard, each computed when it is first asked for."""

    model: Any
    """The `Model`, or the `Detector`."""
    samples: Samples
    _values: dict[Artifact[Any], Any] = field(default_factory=dict)

    def get(self, artifact: Artifact[Value]) -> Value:
        """Return the artifact's value for this shard; callers must not change it."""
        if artifact not in self._values:
            self._values[artifact] = artifact.compute(self.model, self.samples)
        value: Value = self._values[artifact]
        return value
