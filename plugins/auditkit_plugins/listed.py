"""Options that are lists, as they are typed: `fog, snow`, or a single number."""

from __future__ import annotations

__all__ = ["listed"]


def listed(value: object) -> object:
    """Return the parts of a text between commas or spaces, and a single number as a list of one; else the value."""
    if isinstance(value, str):
        return tuple(part for part in value.replace(",", " ").split() if part)
    return (value,) if isinstance(value, int) else value
