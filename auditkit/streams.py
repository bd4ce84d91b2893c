"""Counter-based random numbers: a stream for each (seed, purpose, sample), the same in any batch, order or process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Streams"]

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_MANTISSA_BITS = 24


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
        count = 1
        for size in shape:
            count *= size
        steps = torch.as_tensor(step, dtype=torch.int64, device=self.keys.device)
        row_key = _mix(self.keys[:, 0] + (steps + 1) * _GOLDEN) ^ self.keys[:, 1]
        counter = torch.arange(1, count + 1, dtype=torch.int64, device=self.keys.device)
        bits = _mix(row_key.unsqueeze(1) + counter * _GOLDEN)
        mantissa = _shift_right(bits, 64 - _MANTISSA_BITS).to(torch.float64)
        numbers = ((mantissa + 0.5) * 2.0**-_MANTISSA_BITS).to(torch.float32)
        return numbers.clamp_max_(1 - 2.0**-_MANTISSA_BITS).reshape(len(self.keys), *shape)

    def normal(self, step: int | Tensor, shape: Sequence[int]) -> Tensor:
        """Return float32 (N, *shape), standard normal (tails end near 5.3); `step` as in `uniform`."""
        normal: Tensor = torch.special.ndtri(self.uniform(step, shape).to(torch.float64))
        return normal.to(torch.float32)


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
