"""The activations of all images together: what shards add up, and the tables and figures that come of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from auditkit import (
    ActivationSite,
    ActivationStatistics,
    ActivationTotals,
    Conclusion,
    MagnitudeHistogram,
    Moments,
    Profile,
    ProfileLine,
    Table,
    Tally,
    tail_index,
)
from auditkit_plugins.activation_columns import Attacked
from auditkit_plugins.attacked_images import FAMILIES

__all__ = ["conclusion", "tallies"]

Merged = Mapping[str, npt.NDArray[Any]]

_QUANTILES = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)
_SHOWN = (0.99, 0.9999)
_ABOVE = 6.0
# Sums of floats depend on the shards in digits that nobody is shown.
_DIGITS = 4
# So often, at most, happens what never happened in N images, over N: the rule of three.
_NEVER = 3


def tallies(
    sites: Sequence[ActivationSite],
    totals: ActivationTotals,
    clean: ActivationStatistics,
    attacked: Attacked,
) -> dict[str, Tally]:
    """Return what those of all shards are combined from."""
    names = "\n".join(f"{site.name}\t{site.function}" for site in sites).encode()
    found = {
        # Every shard has the same names.
        "sites": Tally(np.frombuffer(names, dtype=np.uint8), "largest"),
        "units": Tally(np.array([site.channels for site in sites]), "largest"),
        "images": Tally(np.array([len(clean.largest)])),
        "magnitudes": Tally(totals.counts.cpu().numpy()),
        "powers": Tally(totals.powers.cpu().numpy()),
        "not_finite": Tally(totals.not_finite.cpu().numpy()),
        "outliers": Tally(totals.outliers),
        "largest": Tally(totals.largest, "largest"),
        "unit_mass": Tally(np.concatenate(totals.unit_mass)),
        "unit_highest": Tally(np.concatenate(totals.unit_highest), "largest"),
    }
    arms = (attacked.statistics.largest, attacked.control.largest)
    silent = np.zeros((1, len(sites)))
    most = np.stack([np.concatenate([arm, silent]).max(0) for arm in arms])
    found["attacked_largest"] = Tally(most, "largest")
    before = clean.largest[attacked.rows]
    for number, family in enumerate(FAMILIES):
        own = attacked.families == number
        ratios = [_log_ratio(arm[own], before[own]) for arm in arms]
        found[f"{family}_log_ratio"] = Tally(np.stack([np.nansum(ratio, axis=0) for ratio in ratios]))
        found[f"{family}_pairs"] = Tally(np.stack([(~np.isnan(ratio)).sum(0) for ratio in ratios]))
    return found


def _log_ratio(after: npt.NDArray[np.float64], before: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    heard = (after > 0) & (before > 0)
    return np.log(np.divide(after, before, out=np.full_like(after, np.nan), where=heard))


def conclusion(merged: Merged) -> Conclusion:
    """Return the table of all sites, and the figures of how loud they are and of what attacks add."""
    histograms = [
        MagnitudeHistogram(counts, float(largest))
        for counts, largest in zip(merged["magnitudes"], merged["largest"], strict=True)
    ]
    names = merged["sites"].tobytes().decode().split("\n")
    places = tuple(name.partition("\t")[0] for name in names)
    return Conclusion(
        (_table(merged, names, histograms),), (_loud(merged, places, histograms), *_added(merged, places))
    )


def _table(merged: Merged, names: Sequence[str], histograms: Sequence[MagnitudeHistogram]) -> Table:
    images = int(merged["images"][0])
    ends = np.cumsum(merged["units"])[:-1]
    units = list(zip(np.split(merged["unit_mass"], ends), np.split(merged["unit_highest"], ends), strict=True))
    columns = ["layer", "function", "units", "values", "share of zeros", "median of the others"]
    columns += [f"{100 * share:g} %" for share in _QUANTILES]
    columns += ["largest", f"share above {_ABOVE:g}", "kurtosis", "tail index", "share of its loudest unit"]
    columns += ["units never above zero", "share of outliers"]
    odd = bool(merged["not_finite"].any())
    rows = []
    for number, (name, histogram) in enumerate(zip(names, histograms, strict=True)):
        mass, highest = units[number]
        row: list[str | int | float | None] = [*name.split("\t"), len(mass), histogram.total]
        row += [_share(histogram.zeros, histogram.total), _rounded(histogram.quantile_of_positive(0.5))]
        row += [_rounded(histogram.quantile(share)) for share in _QUANTILES]
        row += [_rounded(histogram.largest), _share(histogram.above(_ABOVE), histogram.total)]
        row += [_rounded(_kurtosis(merged["powers"][number], histogram)), _rounded(tail_index(histogram))]
        row += [_share(mass.max(), mass.sum()), int((highest <= 0).sum())]
        row += [_share(merged["outliers"][number], histogram.total)]
        rows.append((*row, int(merged["not_finite"][number])) if odd else tuple(row))
    bound = min(1.0, _NEVER / max(images, 1))
    title = (
        f"Layer by layer, magnitudes on {images} clean images; a unit that was never above zero on them is so on fewer "
        f"than {bound:.2%} of such images (95 % confidence)"
    )
    return Table(title, (*columns, "NaN or infinite") if odd else tuple(columns), tuple(rows))


def _kurtosis(powers: npt.NDArray[np.float64], histogram: MagnitudeHistogram) -> float | None:
    """Return the kurtosis from the sums of powers where there are some, else from the histogram."""
    moments = Moments(histogram.total, powers) if powers.any() else Moments.of(histogram)
    return moments.kurtosis


def _loud(merged: Merged, places: tuple[str, ...], histograms: Sequence[MagnitudeHistogram]) -> Profile:
    lines = [_line("median of what is not zero", [one.quantile_of_positive(0.5) for one in histograms])]
    lines += [_line(f"{100 * share:g} %", [one.quantile(share) for one in histograms]) for share in _SHOWN]
    lines.append(_line("largest, clean images", [one.largest for one in histograms]))
    for name, largest in zip(("attacked images", "perturbations moved"), merged["attacked_largest"], strict=True):
        if largest.any():
            lines.append(_line(f"largest, {name}", largest.tolist()))
    return Profile(
        "How loud the layers are",
        "layers, from input to output",
        "magnitude of an activation",
        places,
        tuple(lines),
        logarithmic=True,
    )


def _added(merged: Merged, places: tuple[str, ...]) -> tuple[Profile, ...]:
    """Return the figure of what attacks add to each layer, none where there was no attack."""
    lines = []
    for family, words in FAMILIES.items():
        arms = zip(merged[f"{family}_log_ratio"], merged[f"{family}_pairs"], strict=True)
        for name, (total, pairs) in zip((words, f"{words}, moved elsewhere"), arms, strict=True):
            if pairs.any():
                means = np.divide(total, pairs, out=np.full(len(total), np.nan), where=pairs > 0)
                lines.append(_line(name, np.exp(means).tolist()))
    if not lines:
        return ()
    title = "What attacks add, layer by layer"
    y_label = "largest activation, attacked over clean"
    return (Profile(title, "layers, from input to output", y_label, places, tuple(lines), logarithmic=True),)


def _line(name: str, values: Sequence[float | None]) -> ProfileLine:
    return ProfileLine(name, tuple(_rounded(value) for value in values))


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.{_DIGITS}g}")


def _share(part: float, whole: float) -> float | None:
    return _rounded(float(part) / float(whole)) if whole else None
