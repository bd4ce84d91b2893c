"""Says what breaks the contract."""

from __future__ import annotations

__all__ = ["hold"]


def hold(condition: bool, message: str) -> None:
    """Raise AssertionError with this message unless the condition holds."""
    if not condition:
        raise AssertionError(message)
