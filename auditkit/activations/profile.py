"""The profile of a network's activations on a stream of images: numbers an image, and sums over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from auditkit.activations.calibration import ActivationCalibration
from auditkit.activations.concentration import effective_share, top_share
from auditkit.activations.histogram import count_bits
from auditkit.activations.passes import Passes
from auditkit.activations.planes import planes
from auditkit.activations.totals import ActivationTotals
from auditkit.models.base import Differentiable
from auditkit.models.taps import ActivationSite, tap_activations

__all__ = ["ActivationStatistics", "profile_activations"]

_TOP_SHARE = 0.01
_FIELDS = 5

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ActivationStatistics:
    """What the activations of N images are like at S sites: float64 (N, S), but for the last."""

    largest: Floats
    """The largest magnitude."""
    top_unit: Floats
    """What part of the site's activation its loudest unit carries; NaN where all are silent."""
    top_share: Floats
    """The same of the loudest 1 % of the units, one at least."""
    effective_share: Floats
    """The effective number of units as a share of them; NaN where all are silent."""
    outliers: Floats
    """The share of outliers among the values."""
    last_norm: Floats
    """(N,): the Euclidean norm of the mean magnitudes of the last site's units."""

    @staticmethod
    def joined(parts: Sequence[ActivationStatistics]) -> ActivationStatistics:
        """Return those of all images of one or more parts."""
        names = (field.name for field in fields(ActivationStatistics))
        return ActivationStatistics(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def profile_activations(
    model: Differentiable,
    sites: Sequence[ActivationSite],
    calibration: ActivationCalibration,
    images: Tensor,
    totals: ActivationTotals | None = None,
    exact_moments: bool = False,
) -> ActivationStatistics:
    """Return what the activations of images (N, C, H, W) in [0, 1] are like, and add them to `totals`, if given.

    An image's numbers do not depend on the others. But for these numbers, memory does not grow with the images.
    Sums of powers are added where a function has values below zero, of which there is no histogram; with
    `exact_moments` everywhere, which costs a fifth of a forward pass of a narrow network.

    Raises:
        ExecutionError: the network took another path for these images than for those that its sites were found with.
    """
    wanted = [site.negative or exact_moments for site in sites]
    profiler = _Profiler(sites, calibration, totals, wanted, Passes(images.device))
    tap_activations(model, sites, images, profiler.tap)
    return profiler.statistics()


class _Profiler:
    def __init__(
        self,
        sites: Sequence[ActivationSite],
        calibration: ActivationCalibration,
        totals: ActivationTotals | None,
        powers: Sequence[bool],
        passes: Passes,
    ) -> None:
        self.sites = sites
        self.limits = calibration.limits(sites, passes.device)
        self.totals = totals
        self.powers = powers
        self.passes = passes
        self.found: list[list[Floats]] = [[] for _ in sites]
        """For each site and batch what `_of_images` returns."""
        self.norms: list[Floats] = []

    def tap(self, number: int, activations: Tensor, rows: int) -> None:
        """Go over the activations at a site; only the first `rows` are of images."""
        site = self.sites[number]
        # Rows that only fill the batch are gone over, too: a sum over few rows may be rounded otherwise.
        everything = planes(activations, site.channel_axis + 1)
        seen = self.passes.see(everything, site.negative, *self.limits[number])
        if not seen.finite:
            bad = ~everything.values.isfinite()
            self._leave_out(number, bad[:rows])
            everything = replace(everything, values=everything.values.masked_fill(bad, 0))
            seen = self.passes.see(everything, site.negative, *self.limits[number])
        found = _Found(
            *(part[:rows].double().cpu().numpy() for part in (seen.highest, seen.largest, seen.mass, seen.outliers))
        )
        self.found[number].append(_of_images(found, everything.positions))
        if number == len(self.sites) - 1:
            self.norms.append(np.sqrt(((found.mass / everything.positions) ** 2).sum(1)))
        if self.totals is not None:
            self._add(self.totals, number, found)
            self.totals.counts[number] += count_bits(seen.bits[:rows].view(-1))
            if self.powers[number]:
                self.totals.powers[number] += self.passes.powers(everything.take(rows))

    def _add(self, totals: ActivationTotals, number: int, found: _Found) -> None:
        totals.outliers[number] += int(found.outliers.sum())
        totals.largest[number] = max(totals.largest[number], found.largest.max())
        totals.unit_mass[number][:] += found.mass.sum(0)
        np.maximum(totals.unit_highest[number], found.highest.max(0), out=totals.unit_highest[number])

    def _leave_out(self, number: int, bad: Tensor) -> None:
        """Note values that are not finite, which the histogram will count as zeros."""
        if self.totals is not None:
            self.totals.not_finite[number] += bad.sum()
            self.totals.counts[number, 0] -= bad.sum()

    def statistics(self) -> ActivationStatistics:
        """Return what was found of all images."""
        none = np.zeros((0, _FIELDS))
        every = np.stack([np.concatenate([none, *parts]) for parts in self.found], axis=1)
        largest, top_unit, top, effective, outliers = (
            np.ascontiguousarray(every[:, :, field]) for field in range(_FIELDS)
        )
        norms = np.concatenate([none[:, 0], *self.norms])
        return ActivationStatistics(largest, top_unit, top, effective, outliers, norms)


@dataclass(frozen=True)
class _Found:
    """What was found of n images at one site, float64 (n, C) but for the last."""

    highest: Floats
    largest: Floats
    mass: Floats
    outliers: Floats
    """(n,)"""


def _of_images(found: _Found, positions: int) -> Floats:
    """Return float64 (n, 5): for each image the first fields of `ActivationStatistics` at one site."""
    mass = found.mass
    values = (
        found.largest.max(1),
        top_share(mass, 0),
        top_share(mass, _TOP_SHARE),
        effective_share(mass),
        found.outliers / (mass.shape[1] * positions),
    )
    return np.stack(values, axis=1)
