"""Names and messages out of strangers' files, made safe to print on one line."""

from __future__ import annotations

from auditkit.quoting import printable

__all__ = ["first_line", "shown", "size_in_words"]

_LONGEST = 160
_UNITS = ("KiB", "MiB", "GiB", "TiB")


def shown(text: object, longest: int = _LONGEST) -> str:
    """Return a text on one line, without characters that steer a terminal, and cut where it goes on and on."""
    plain = str(text)
    cut = plain if len(plain) <= longest else plain[: longest - 3] + "..."
    return printable(cut)


def first_line(error: BaseException) -> str:
    """Return what an exception says first, or its kind where it says nothing; printable."""
    lines = str(error).strip().splitlines()
    return shown(lines[0] if lines else type(error).__name__, longest=300)


def size_in_words(size: int) -> str:
    """Return a number of bytes as people say it."""
    power = min(max(size.bit_length() - 1, 0) // 10, len(_UNITS))
    return f"{size / 1024**power:.1f} {_UNITS[power - 1]}" if power else f"{size} bytes"
