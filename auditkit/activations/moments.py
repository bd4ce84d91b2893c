"""Moments of a stream of numbers from the sums of their powers, which those of two shards simply add up to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from auditkit.activations.histogram import MagnitudeHistogram

__all__ = ["Moments", "power_sums"]

# A scatter that is so small a part of the squares is but what rounding left.
_CONSTANT = 1e-12


def power_sums(values: Tensor, scratch: Tensor) -> Tensor:
    """Return float64 (4,): the sums of the values (M,) and of their second to fourth powers, exact but for rounding.

    `scratch`, float64 (2, M), is overwritten.
    """
    exact, squares = scratch
    exact.copy_(values)
    torch.mul(exact, exact, out=squares)
    return torch.stack([exact.sum(), squares.sum(), torch.dot(exact, squares), torch.dot(squares, squares)])


@dataclass(frozen=True)
class Moments:
    """The first four moments of n numbers."""

    n: int
    powers: npt.NDArray[np.float64]
    """(4,): the sums of the numbers and of their second to fourth powers."""

    @staticmethod
    def of(histogram: MagnitudeHistogram) -> Moments:
        """Return those of numbers that are not negative, as if each was in the middle of its bin.

        Each number is off by at most 0.4 %, up as often as down: the moments of many are off by far less.
        """
        magnitudes, counts = histogram.positive()
        return Moments(histogram.total, np.array([(counts * magnitudes**power).sum() for power in (1, 2, 3, 4)]))

    @property
    def mean(self) -> float:
        """The mean; NaN without numbers."""
        return float(self.powers[0]) / self.n if self.n else math.nan

    @property
    def deviation(self) -> float:
        """The standard deviation of these numbers, not of what they were drawn from; NaN without numbers."""
        return math.sqrt(max(self._scatter, 0.0) / self.n) if self.n else math.nan

    @property
    def kurtosis(self) -> float | None:
        """The fourth central moment over the square of the second, 3 for a normal distribution; None for constants."""
        if not self.n or not np.isfinite(self.powers).all() or self._scatter <= _CONSTANT * float(self.powers[1]):
            return None
        mean = self.mean
        first, second, third, fourth = self.powers.tolist()
        central = fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**3 * first
        return float(self.n * central / self._scatter**2)

    @property
    def _scatter(self) -> float:
        """The sum of the squared distances from the mean."""
        return float(self.powers[1]) - self.mean * float(self.powers[0])
