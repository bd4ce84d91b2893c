"""Mutations of bytes and of text, each drawn from the stream of one input."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import structure

__all__ = ["Draw", "mutated"]

T = TypeVar("T")

_INTEGERS = (0, 1, -1, 127, 255, 256, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63))
_NUMBERS = (
    b"0",
    b"-0",
    b"-1",
    b"1e309",
    b"-1e309",
    b"1e-400",
    b"0.5",
    b"NaN",
    b"Infinity",
    b"2147483648",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775809",
    b"1" + b"0" * 400,
    b"9" * 5000,
    b"0x10",
    b"1_000",
    "\u0663".encode(),
    "\u00b2".encode(),
)
_TEXTS = (
    b"",
    b"\x00",
    b"\r\n",
    b"\x1b[2J",
    b"../secret.txt",
    b"../../../../../../etc/passwd",
    b"/etc/passwd",
    b"<script>alert(1)</script>",
    b"{{ 7 * 7 }}",
    b"%s%n",
    b"'",
    b'"',
    b"\\",
    b"a" * 5000,
    b"\xff\xfe",
    b"\xed\xa0\x80",
    "\u2028".encode(),
    "\u202e".encode(),
    "\ufeff".encode(),
    b'__import__("os").system("true")',
    b"fuzz_canary:function",
)
_TOKEN = re.compile(rb"[A-Za-z_]+|[0-9.]+|\s+|.", re.DOTALL)
_DIGITS = re.compile(rb"-?[0-9][0-9.eE+-]*")
_LARGEST = 2**22
_LARGEST_TEXT = 2**16


class Draw:
    """Choices from one stream of random numbers."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def below(self, bound: int) -> int:
        """Return a whole number in [0, bound)."""
        return int(self.generator.integers(bound)) if bound > 0 else 0

    def chance(self, share: float) -> bool:
        """Return True so often."""
        return bool(self.generator.random() < share)

    def one_of(self, choices: Sequence[T]) -> T:
        """Return one of several."""
        return choices[self.below(len(choices))]

    def span(self, length: int, longest: int = 64) -> tuple[int, int]:
        """Return start and end of a piece of something of this length."""
        start = self.below(length + 1)
        return start, min(length, start + 1 + self.below(longest))


def mutated(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw) -> bytes:
    """Return `data` after a few mutations, inside of its container where it is one that is known."""
    for _ in range(draw.one_of((1, 1, 1, 1, 2, 2, 4))):
        if draw.chance(0.9):
            inner = structure.mutated_inside(data, corpus, words, draw, mutated)
            if inner is not None:
                data = inner
                continue
        text = len(data) < _LARGEST_TEXT and (words or _is_text(data))
        data = draw.one_of(_OF_TEXT if text and draw.chance(0.7) else _OF_BYTES)(data, corpus, words, draw)
    return data[:_LARGEST]


def _is_text(data: bytes) -> bool:
    try:
        return b"\x00" not in data and bool(data.decode())
    except UnicodeDecodeError:
        return False


def _flip(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw) -> bytes:
    if not data:
        return b"\x00"
    changed = bytearray(data)
    for _ in range(1 + draw.below(4)):
        changed[draw.below(len(changed))] ^= 1 << draw.below(8)
    return bytes(changed)


def _overwrite(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw) -> bytes:
    start, end = draw.span(len(data), 8)
    return data[:start] + draw.generator.bytes(end - start) + data[end:]


def _insert(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw) -> bytes:
    at = draw.below(len(data) + 1)
    return data[:at] + draw.generator.bytes(1 + draw.below(16)) + data[at:]


def _delete(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw) -> bytes:
    start, end = draw.span(len(data))
    return data[:start] + data[end:]


def _truncate(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw) -> bytes:
    return data[: draw.below(len(data) + 1)]


def _splice(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw) -> bytes:
    other = draw.one_of(corpus)
    return data[: draw.below(len(data) + 1)] + other[draw.below(len(other) + 1) :]


def _integer(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw) -> bytes:
    size = draw.one_of((1, 2, 4, 8))
    value = draw.one_of(_INTEGERS) & (256**size - 1)
    at = draw.below(max(len(data) - size, 0) + 1)
    return data[:at] + value.to_bytes(size, draw.one_of(("little", "big"))) + data[at + size :]  # type: ignore[arg-type]


def _repeat(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw) -> bytes:
    start, end = draw.span(len(data), draw.one_of((1, 8, 256)))
    times = draw.one_of((2, 3, 16, 300, 3000))
    return data[:start] + data[start:end] * times + data[end:] if (end - start) * times < _LARGEST else data


def _word(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw) -> bytes:
    word = draw.one_of(words) if words and draw.chance(0.7) else draw.one_of(_TEXTS)
    pieces = _TOKEN.findall(data)
    at = draw.below(len(pieces) + 1)
    return b"".join((*pieces[:at], word, *pieces[at + draw.below(2) :]))


def _number(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw) -> bytes:
    places = [match.span() for match in _DIGITS.finditer(data)]
    if not places:
        return _word(data, corpus, words, draw)
    start, end = draw.one_of(places)
    return data[:start] + draw.one_of(_NUMBERS) + data[end:]


def _tokens(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw) -> bytes:
    pieces = _TOKEN.findall(data)
    if len(pieces) < 2:
        return _insert(data, corpus, words, draw)
    first, second = draw.below(len(pieces)), draw.below(len(pieces))
    match draw.below(4):
        case 0:
            pieces[first], pieces[second] = pieces[second], pieces[first]
        case 1:
            del pieces[first : first + 1 + draw.below(4)]
        case 2:
            pieces.insert(second, pieces[first])
        case _:
            low, high = sorted((first, second))
            other = _TOKEN.findall(draw.one_of(corpus)[:_LARGEST])
            pieces[low:high] = other[draw.below(len(other) + 1) :][: 1 + draw.below(32)]
    return b"".join(pieces)


def _nest(data: bytes, corpus: Sequence[bytes], words: Sequence[bytes], draw: Draw) -> bytes:
    opening, closing = draw.one_of(((b"[", b"]"), (b"{", b"}"), (b'{"a":', b"}"), (b"(", b")"), (b"[[", b"]]")))
    times = draw.one_of((1, 5, 200, 5000, 100_000))
    start, end = draw.span(len(data), 256)
    return data[:start] + opening * times + data[start:end] + closing * times + data[end:]


_Mutation = Callable[[bytes, Sequence[bytes], Sequence[bytes], Draw], bytes]
_OF_BYTES: tuple[_Mutation, ...] = (
    _flip,
    _flip,
    _overwrite,
    _insert,
    _delete,
    _truncate,
    _splice,
    _integer,
    _integer,
    _repeat,
)
_OF_TEXT: tuple[_Mutation, ...] = (_word, _word, _number, _number, _tokens, _tokens, _nest, _splice, _delete)
