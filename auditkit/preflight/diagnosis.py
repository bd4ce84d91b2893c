"""What the preflight says: a note for the reader, and the same remedy as data."""

from __future__ import annotations

from dataclasses import dataclass

from auditkit.models.preprocess import Preprocessing
from auditkit.result import NoteRecord

__all__ = ["Diagnosis", "Remedy", "info", "warning"]


@dataclass(frozen=True)
class Remedy:
    """Options that set a model and its images right.

    Attributes:
        option_line: The options as they are typed; empty where some only have to be left out.
        steps: The preprocessing that these options ask for; None where it stays as configured.
        label_offset: What to add to the labels as they are now.
    """

    option_line: str
    steps: Preprocessing | None = None
    label_offset: int = 0


@dataclass(frozen=True)
class Diagnosis:
    """One thing that the preflight noticed, with the remedy where options can bring it about."""

    note: NoteRecord
    remedy: Remedy | None = None


def info(name: str, text: str, remedy: str = "") -> Diagnosis:
    """Return a diagnosis that only informs; `name` follows `preflight.` in the id."""
    return Diagnosis(NoteRecord(id=f"preflight.{name}", level="info", text=text, remedy=remedy))


def warning(name: str, text: str, words: str, remedy: Remedy | None = None) -> Diagnosis:
    """Return a diagnosis of a likely mistake; `words` say what to do about it."""
    return Diagnosis(NoteRecord(id=f"preflight.{name}", level="warning", text=text, remedy=words), remedy)
