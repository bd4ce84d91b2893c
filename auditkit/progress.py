"""Who is told how an audit comes along."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "Silent"]


class Progress(Protocol):
    """Told how an audit comes along."""

    def start(self, total: int) -> None:
        """There are `total` (check, image) pairs to do."""
        ...

    def advance(self, pairs: int, key: str) -> None:
        """So many pairs of this check are done (found in the store, or computed)."""
        ...


class Silent:
    """Progress that nobody sees."""

    def start(self, total: int) -> None:
        """Say nothing."""

    def advance(self, pairs: int, key: str) -> None:
        """Say nothing."""

    def close(self) -> None:
        """Nothing is left to take away."""
