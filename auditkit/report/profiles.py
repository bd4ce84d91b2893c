"""Values along named places, in words and as the rows of a table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from auditkit.report.text import number_text, plural
from auditkit.result import ProfileRecord

__all__ = ["Row", "profile_rows", "profile_takeaway", "profile_words"]

Row = tuple[int, str, tuple[str, ...]]


def profile_rows(profile: ProfileRecord) -> list[Row]:
    """Return number, name and values of each place; the text of a value that is missing is empty."""
    columns = zip_longest(*profile.lines.values()) if profile.lines else [()] * len(profile.places)
    return [
        (number, place, tuple("" if value is None else number_text(value) for value in values or ()))
        for number, (place, values) in enumerate(zip(profile.places, columns, strict=False), start=1)
    ]


def profile_takeaway(profile: ProfileRecord) -> str:
    """Return where the largest value of each line lies, in a sentence; nothing where there are no values."""
    found = [(name, _known(values)) for name, values in profile.lines.items()]
    largest = [(name, max(known, key=lambda entry: entry[1])) for name, known in found if known]
    texts = (f"{name} {number_text(value)} at {_place(profile, at)}" for name, (at, value) in largest)
    return f"Largest values: {'; '.join(texts)}." if largest else ""


def profile_words(profile: ProfileRecord) -> str:
    """Return the profile in words, for who cannot see it."""
    scale = ", on a logarithmic scale" if profile.logarithmic else ""
    return " ".join(
        [
            f"{profile.y_label}{scale}, at {plural(len(profile.places), 'place')} ({profile.x_label}).",
            *(_line_words(profile, name, values) for name, values in profile.lines.items()),
        ]
    )


def _line_words(profile: ProfileRecord, name: str, values: Sequence[float | None]) -> str:
    found = _known(values)
    if not found:
        return f"{name}: no values."
    least, largest = (choose(found, key=lambda entry: entry[1]) for choose in (min, max))
    return "; ".join(
        [
            f"{name}: from {number_text(found[0][1])} at {_place(profile, found[0][0])}"
            f" to {number_text(found[-1][1])} at {_place(profile, found[-1][0])}",
            f"least {number_text(least[1])} at {_place(profile, least[0])}",
            f"largest {number_text(largest[1])} at {_place(profile, largest[0])}.",
        ]
    )


def _known(values: Sequence[float | None]) -> list[tuple[int, float]]:
    return [(at, value) for at, value in enumerate(values) if value is not None]


def _place(profile: ProfileRecord, at: int) -> str:
    return f"{profile.places[at]} ({at + 1})" if at < len(profile.places) else str(at + 1)
