"""How deep the things in a pickle lie inside of each other, found without making any of them.

TorchScript's values are freed from the outside in, each by a call inside of the one around it, until the stack is full.
"""

from __future__ import annotations

import io
import pickletools

__all__ = ["is_too_deep_a_pickle"]

_MARK = -1
_LEAF = 0
_INTO = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}
_ALL_INTO = ("APPENDS", "SETITEMS", "ADDITEMS")
_OF_ALL = ("TUPLE", "LIST", "DICT", "FROZENSET", "OBJ", "INST")
_OF_LAST = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3, "BINPERSID": 1}
_NEW = ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_TUPLE", "EMPTY_SET")


class _Machine:
    """A stack of numbers for things, and what lies in each; 0 is everything that holds nothing."""

    def __init__(self) -> None:
        self.stack: list[int] = []
        self.memo: dict[object, int] = {}
        self.inside: list[list[int]] = [[]]

    def make(self, parts: list[int]) -> None:
        """Push a new thing."""
        self.inside.append([part for part in parts if part > _LEAF])
        self.stack.append(len(self.inside) - 1)

    def put_into_top(self, parts: list[int]) -> None:
        """Put things into the one on top of the stack."""
        if self.stack and self.stack[-1] > _LEAF:
            self.inside[self.stack[-1]] += [part for part in parts if part > _LEAF]

    def last(self, count: int) -> list[int]:
        """Pop so many things."""
        parts = self.stack[-count:] if count else []
        del self.stack[len(self.stack) - len(parts) :]
        return parts

    def to_mark(self) -> list[int]:
        """Pop everything down to the last mark."""
        parts = []
        while self.stack and (part := self.stack.pop()) != _MARK:
            parts.append(part)
        return parts

    def step(self, name: str, argument: object, takes: int, gives: int) -> None:
        """Do what an opcode does."""
        if name == "MARK":
            self.stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1] if self.stack else _LEAF
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo.get(argument, _LEAF))
        elif name == "DUP":
            self.stack += self.stack[-1:]
        elif name == "POP_MARK":
            self.to_mark()
        elif name in _INTO:
            self.put_into_top(self.last(_INTO[name]))
        elif name in _ALL_INTO:
            self.put_into_top(self.to_mark())
        elif name in _OF_ALL:
            self.make(self.to_mark())
        elif name in _OF_LAST:
            self.make(self.last(_OF_LAST[name]))
        elif name in _NEW:
            self.make([])
        else:
            self.last(takes)
            self.stack += [_LEAF] * gives


def is_too_deep_a_pickle(content: bytes, deepest: int) -> bool:
    """Tell whether things in a pickle lie more than `deepest` levels inside of each other, or inside of themselves.

    Raises:
        ValueError: the opcodes are no pickle.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(io.BytesIO(content)):
        machine.step(opcode.name, argument, len(opcode.stack_before), len(opcode.stack_after))
    return _is_deeper(machine.inside, deepest)


def _is_deeper(inside: list[list[int]], deepest: int) -> bool:
    """Tell whether a chain of things is longer than `deepest`, taking away what holds nothing again and again."""
    around: list[list[int]] = [[] for _ in inside]
    for holder, parts in enumerate(inside):
        for part in parts:
            around[part].append(holder)
    waiting = [len(parts) for parts in inside]
    level = [thing for thing, count in enumerate(waiting) if count == 0]
    for _ in range(deepest):
        if not level:
            break
        following = []
        for thing in level:
            for holder in around[thing]:
                waiting[holder] -= 1
                if waiting[holder] == 0:
                    following.append(holder)
        level = following
    return any(waiting) or bool(level)
