"""One number an image from its activations at many sites, for clean images and for attacked ones beside controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from auditkit import ActivationStatistics
from auditkit_plugins.attacked_images import FAMILIES, mean_of_rows

__all__ = ["Attacked", "clean_columns", "family_columns", "relative"]

Floats = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Attacked:
    """M attacked images, each with its control: the same perturbation at another place."""

    rows: npt.NDArray[np.int64]
    """(M,): the numbers of their samples."""
    families: npt.NDArray[np.int64]
    """(M,): the numbers of the families of their attacks."""
    statistics: ActivationStatistics
    control: ActivationStatistics


def relative(statistics: ActivationStatistics, typical: Floats) -> Floats:
    """Return (N, S): the largest activation at each site over what is typical there, (S,); 0 where all is silent."""
    largest = statistics.largest
    return np.divide(largest, typical, out=np.zeros_like(largest), where=typical > 0)


def clean_columns(statistics: ActivationStatistics, typical: Floats) -> Columns:
    """Return the columns of the N clean images."""
    loudness = relative(statistics, typical)
    return {
        "loudness": loudness.max(1),
        "loudest_site": loudness.argmax(1),
        "top_unit": _mean(statistics.top_unit),
        "top_share": _mean(statistics.top_share),
        "effective_share": _mean(statistics.effective_share),
        "outlier_rate": statistics.outliers.mean(1),
        "last_norm": statistics.last_norm,
    }


def family_columns(attacked: Attacked, clean: Columns, typical: Floats) -> Columns:
    """Return the columns of each family of attacks: the mean over a sample's attacked images, NaN where it has none."""
    loudness, control = (relative(one, typical).max(1) for one in (attacked.statistics, attacked.control))
    before = clean["loudness"][attacked.rows]
    values = {
        "loudness": loudness,
        "control_loudness": control,
        "ratio": _ratio(loudness, before),
        "control_ratio": _ratio(control, before),
        "top_share": _mean(attacked.statistics.top_share),
        "last_norm": attacked.statistics.last_norm,
    }
    columns: Columns = {}
    n = len(clean["loudness"])
    for number, family in enumerate(FAMILIES):
        own = attacked.families == number
        rows = attacked.rows[own]
        columns[f"{family}_attacked"] = np.bincount(rows, minlength=n) > 0
        means = {name: mean_of_rows(column[own], rows, n) for name, column in values.items()}
        # False where there is no attack, for NaN compares so.
        columns[f"{family}_louder"] = means["loudness"] > means["control_loudness"]
        columns |= {f"{family}_{name}": column for name, column in means.items()}
    return columns


def _mean(values: Floats) -> Floats:
    """Return (N,): the mean over the sites (N, S) that are not silent, 0 where all are."""
    heard = ~np.isnan(values)
    mean: Floats = np.where(heard, values, 0).sum(1) / np.maximum(heard.sum(1), 1)
    return mean


def _ratio(after: Floats, before: Floats) -> Floats:
    # An image that is silent at every site is left out of no median: it counts as not louder.
    return np.divide(after, before, out=np.ones_like(after), where=before > 0)
