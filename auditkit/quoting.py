"""What a stranger wrote, as a message may repeat it: on one line, printable, and no longer than one reads."""

from __future__ import annotations

__all__ = ["printable", "quoted", "shortened"]

_LONGEST = 200
_LONGEST_SENTENCE = 1000


def printable(text: str) -> str:
    """Return a name with everything unprintable (line breaks, broken encodings) written as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def quoted(value: object) -> str:
    """Return a value as Python writes it; of a long one, its beginning and its end."""
    try:
        text = repr(value)
    # Numbers of thousands of digits, and what holds itself, cannot be written.
    except (ValueError, RecursionError):
        return f"{type(value).__name__} too long to be shown"
    return shortened(text, _LONGEST)


def shortened(text: str, longest: int = _LONGEST_SENTENCE) -> str:
    """Return a text in printable form; of a long one, its beginning and its end."""
    # Escapes only make it longer: what is far too long need not be escaped to its end.
    text = printable(text if len(text) <= 2 * longest else text[:longest] + text[-longest:])
    return text if len(text) <= longest else f"{text[: longest - 30]}...{text[-27:]}"
