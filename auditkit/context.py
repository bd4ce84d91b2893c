"""What a running check may use beside the model and the samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from auditkit.artifacts import Shelf
from auditkit.check import Finished, Lesson
from auditkit.errors import ExecutionError
from auditkit.models.base import Differentiable
from auditkit.streams import Streams

__all__ = ["Context", "TimeLimitError"]


class TimeLimitError(ExecutionError):
    """A check used up its time."""


@dataclass(frozen=True)
class Context:
    """Seed, search copy, shared values and limits of one (check, shard) unit."""

    key: str
    """The check's key in this audit; random streams are drawn for it."""
    seed: int
    batch: int
    shelf: Shelf
    search: Differentiable | None
    """The fast copy for gradients; None where the model gives none. Verdicts never come from it."""
    class_names: tuple[str, ...] | None = None
    time_limit: float | None = None
    """Seconds this unit may take."""
    started: float = 0.0
    progress: Callable[[int], None] = lambda samples: None
    """Told how many samples were finished since it was last told."""
    lesson: Lesson = field(default_factory=dict)
    """What the check has learned, unless its scope is the sample."""
    calibration: Shelf | None = None
    """With the scope `outside`: up to 128 of the audited images, spread evenly, with values computed once for all."""
    finished: Mapping[str, Finished] = field(default_factory=dict)
    """By key: the checks that it said it reads, as far as they ran."""

    def streams(self, ids: Sequence[str], purpose: str = "") -> Streams:
        """Return a random stream for each sample, on the model's device."""
        return Streams.of(self.seed, f"{self.key}\0{purpose}", ids, self.shelf.model.device)

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number."""
        names = self.class_names
        return names[label] if names is not None and 0 <= label < len(names) else f"class {label}"

    def check_time(self) -> None:
        """Raise `TimeLimitError` once the unit's time is up; long loops call this between steps."""
        if self.time_limit is not None and time.monotonic() - self.started > self.time_limit:
            raise TimeLimitError(f"stopped at its time limit of {self.time_limit:g} s a shard")
