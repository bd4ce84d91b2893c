"""What a worker process on this machine is to be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Order"]


@dataclass(frozen=True)
class Order:
    """Everything that a worker process is told before its first task."""

    recipe: bytes
    """A pickled `Recipe`."""
    threads: int
    store: Path
