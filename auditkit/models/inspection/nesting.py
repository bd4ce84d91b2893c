"""How deep the code of a TorchScript file is nested: torch's parser calls itself for every level, until it crashes."""

from __future__ import annotations

import re

__all__ = ["DEEPEST", "is_too_deep"]

DEEPEST = 1000
"""Brackets, blocks or operators inside of each other; what torch writes has a few dozen."""

_OPERATOR = re.compile(rb"(?<=[\w)\]}])\s*(?:[-+*/%|&^<>=!]+|\.(?=[A-Za-z_])|\b(?:and|or|if|is|in)\b)")
_REPEATED = re.compile(rb"(?:[-+~][\s\\]*){100}|(?:\bnot\b[\s\\]*){100}|(?:\blambda\b[^\n]*){100}")


def is_too_deep(code: bytes) -> bool:
    """Tell whether code is nested deeper than a parser should have to go.

    Brackets in texts count as well, as no reader but torch's own knows for sure where a text ends there.
    """
    if _REPEATED.search(code) or len(re.findall(rb"\belif\b", code)) > DEEPEST:
        return True
    depth = operators = 0
    continued = False
    for line in code.splitlines():
        if len(line) - len(line.lstrip()) > DEEPEST:
            return True
        if depth <= 0 and not continued:
            depth = operators = 0
        continued = line.rstrip().endswith(b"\\")
        operators += len(_OPERATOR.findall(line))
        depth, deepest = _brackets(line, depth)
        if deepest > DEEPEST or operators > DEEPEST:
            return True
    return False


def _brackets(line: bytes, depth: int) -> tuple[int, int]:
    """Return how many brackets are open after a line, and at most within it."""
    deepest = depth
    for found in re.finditer(rb"[\[\](){}]", line):
        depth += 1 if found.group() in (b"(", b"[", b"{") else -1
        deepest = max(deepest, depth)
    return depth, deepest
