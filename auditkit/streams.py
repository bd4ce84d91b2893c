"""Counter-based random numbers: a stream for each (seed, purpose, sample), the same in any batch, order or process."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Streams"]

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_MANTISSA_BITS = 24
# How many numbers are made at once: on a CPU as many as its cache has room for with all that they are made from, on
# other devices as many as keep them busy. A shard of large images at once would take more memory than the shard itself.
_BLOCK_ON_CPU, _BLOCK = 1 << 16, 1 << 24


@dataclass(frozen=True)
class Streams:
    """One random stream a row; rows can be taken, put and shuffled like any other state of an attack.

    The generator is SplitMix64 (Steele, Lea and Flood 2014) keyed by 128 bits of SHA-256; number `i` of draw `step`
    is a function of key, step and i alone, so nothing needs to be remembered between draws.
    """

    keys: Tensor
    """int64 (N, 2)."""

    @staticmethod
    def of(seed: int, purpose: str, ids: Sequence[str], device: torch.device | str = "cpu") -> Streams:
        """Return the streams of these samples for one purpose (a check's key, say)."""
        keys = [_key(seed, purpose, sample) for sample in ids]
        return Streams(torch.tensor(keys, dtype=torch.int64, device=device).reshape(-1, 2))

    def uniform(self, step: int | Tensor, shape: Sequence[int]) -> Tensor:
        """Return float32 (N, *shape), uniform in the open interval (0, 1); `step` is one number or int64 (N,)."""
        return self._in_blocks(step, shape, _uniform)

    def normal(self, step: int | Tensor, shape: Sequence[int]) -> Tensor:
        """Return float32 (N, *shape), standard normal (tails end near 5.3); `step` as in `uniform`."""
        return self._in_blocks(step, shape, lambda bits: torch.special.ndtri(_uniform(bits).to(torch.float64)))

    def _in_blocks(self, step: int | Tensor, shape: Sequence[int], numbers_of: Callable[[Tensor], Tensor]) -> Tensor:
        """Return float32 (N, *shape), made from random bits, int64 (n, count), some rows at a time."""
        count = math.prod(shape)
        steps = torch.as_tensor(step, dtype=torch.int64, device=self.keys.device)
        row_key = _mix(self.keys[:, 0] + (steps + 1) * _GOLDEN) ^ self.keys[:, 1]
        counter = torch.arange(1, count + 1, dtype=torch.int64, device=self.keys.device) * _GOLDEN
        made = torch.empty((len(self.keys), count), dtype=torch.float32, device=self.keys.device)
        block = _BLOCK_ON_CPU if made.device.type == "cpu" else _BLOCK
        rows = max(1, block // max(count, 1))
        for start in range(0, len(made), rows):
            made[start : start + rows] = numbers_of(_mix(row_key[start : start + rows, None] + counter))
        return made.reshape(len(self.keys), *shape)


def _uniform(bits: Tensor) -> Tensor:
    """Turn bits (int64) into float32 in the open interval (0, 1)."""
    mantissa = _shift_right(bits, 64 - _MANTISSA_BITS).to(torch.float64)
    numbers = ((mantissa + 0.5) * 2.0**-_MANTISSA_BITS).to(torch.float32)
    return numbers.clamp_max_(1 - 2.0**-_MANTISSA_BITS)


def _key(seed: int, purpose: str, sample: str) -> tuple[int, int]:
    digest = hashlib.sha256(f"{seed}\0{purpose}\0{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True), int.from_bytes(digest[8:16], "little", signed=True)


def _shift_right(bits: Tensor, places: int) -> Tensor:
    """Shift in zeros from the left, which `>>` on a signed tensor does not."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift_right(bits, 30)) * _MIX_1
    bits = (bits ^ _shift_right(bits, 27)) * _MIX_2
    return bits ^ _shift_right(bits, 31)
