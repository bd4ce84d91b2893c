"""Lists of levels, such as severities 1 to 5, as options: each level once, in order."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from auditkit_plugins.camera import STRENGTHS
from auditkit_plugins.listed import listed

__all__ = ["SEVERITIES", "Severities", "Strengths"]

SEVERITIES = (1, 2, 3, 4, 5)
"""Of corruptions."""


def _ordered(levels: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(levels)))


Severities: TypeAlias = Annotated[
    tuple[Annotated[int, Field(ge=SEVERITIES[0], le=SEVERITIES[-1])], ...],
    BeforeValidator(listed),
    Field(min_length=1),
    AfterValidator(_ordered),
]
Strengths: TypeAlias = Annotated[
    tuple[Annotated[int, Field(ge=STRENGTHS[0], le=STRENGTHS[-1])], ...],
    BeforeValidator(listed),
    Field(min_length=1),
    AfterValidator(_ordered),
]
"""Of what a camera does."""
