"""What a stored audit must be like before anything is judged, compared or drawn: it may come from a stranger."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from auditkit.anytime import SHARES
from auditkit.quoting import quoted
from auditkit.result import CheckRecord, PanelRecord, Result
from auditkit.stats import CONFIDENCE

__all__ = ["check_estimates", "check_figures", "check_pictures", "check_settings", "check_table"]

Arrays = Mapping[str, npt.NDArray[Any]]

_LONGEST_SIDE = 2**14
_NUMBERS = "biuf"
_COLUMNS = "biufU"
_MOST_IMAGES = 2**53
_LARGEST = float(np.finfo(np.float32).max)
"""Anything larger overflows where it is squared or scaled."""


def check_estimates(result: Result) -> None:
    """Make sure that every metric is about a number of images, and that shares are shares: verdicts rest on them.

    Raises:
        ValueError: one is not; the message is one line.
    """
    for check in result.checks:
        for metric, estimate in check.metrics.items():
            possible = estimate.method not in SHARES or 0 <= estimate.value <= 1
            if not possible or not 1 <= estimate.n <= _MOST_IMAGES:
                name, method = quoted(f"{check.key}/{metric}"), quoted(estimate.method)
                raise ValueError(f"{name} is no estimate by {method}: {estimate.value:g} of {estimate.n}")


def check_settings(result: Result) -> None:
    """Make sure that what a result says about itself can be written as JSON, and that its confidence is one.

    Raises:
        ValueError: it is not; the message is one line.
    """
    told = [result.settings, result.volatile, result.model.preprocessing, *(check.options for check in result.checks)]
    if not all(map(_is_finite, told)):
        raise ValueError("a number in its settings is not finite")
    confidence = result.settings.get("confidence", CONFIDENCE)
    if not isinstance(confidence, float) or not 0 < confidence < 1:
        raise ValueError(f"its confidence is {quoted(str(confidence))}, wanted a number between 0 and 1")


def _is_finite(data: Any) -> bool:
    match data:
        case float():
            return math.isfinite(data)
        case dict():
            return all(map(_is_finite, data.values()))
        case list():
            return all(map(_is_finite, data))
        case _:
            return True


def check_table(result: Result, table: Arrays) -> None:
    """Make sure that a table has one row an image, and numbers where metrics are compared image by image.

    Raises:
        ValueError: it has not; the message is one line.
    """
    if not table:
        return
    ids = table.get("id")
    if ids is None or ids.ndim != 1 or ids.dtype.kind != "U" or len(np.unique(ids)) < len(ids):
        raise ValueError("its table has no column id of different names")
    for name, column in table.items():
        if column.shape != ids.shape or column.dtype.kind not in _COLUMNS:
            raise ValueError(
                f"column {quoted(name)} of its table is {column.dtype} {column.shape}, "
                f"wanted texts or numbers {ids.shape}"
            )
    for check in result.checks:
        _check_columns(check, table)


def _check_columns(check: CheckRecord, table: Arrays) -> None:
    for metric, record in check.metric_columns.items():
        column = table.get(f"{check.key}/{record.column}")
        if column is None or column.dtype.kind not in _NUMBERS:
            raise ValueError(f"its table has no numbers for {quoted(f'{check.key}/{metric}')}")
        for name in ("held_out", record.among):
            counted = table.get(f"{check.key}/{name}")
            if counted is not None and counted.dtype.kind not in _NUMBERS:
                raise ValueError(f"its table does not say with {quoted(f'{check.key}/{name}')} which images count")


def check_figures(result: Result) -> None:
    """Make sure that every number that a figure draws fits into 32 bits.

    Raises:
        ValueError: one does not; the message is one line.
    """
    for check in result.checks:
        profiles = [value for profile in check.profiles for line in profile.lines.values() for value in line]
        points = [point for curve in check.curves for point in curve.points]
        estimates = [value for each in points for value in (each.estimate.value, each.estimate.low, each.estimate.high)]
        for value in (*profiles, *(point.x for point in points), *estimates):
            if value is not None and abs(value) > _LARGEST:
                raise ValueError(f"a figure of {quoted(check.key)} has {value:g} in it, more than can be drawn")


def check_pictures(result: Result, arrays: Arrays) -> None:
    """Make sure that each array that a panel shows is a picture of its kind, see `PanelRecord`.

    Raises:
        ValueError: it is not; the message is one line.
    """
    for check in result.checks:
        for exhibit in check.exhibits:
            for panel in exhibit.panels:
                if panel.array in arrays and not _is_picture(panel, arrays[panel.array]):
                    array = arrays[panel.array]
                    got = f"{array.dtype} {array.shape}"
                    raise ValueError(f"the array {quoted(panel.array)} is no picture of kind {panel.kind}: {got}")


def _is_picture(panel: PanelRecord, array: npt.NDArray[Any]) -> bool:
    if not 2 <= array.ndim <= 3 or not all(1 <= side <= _LONGEST_SIDE for side in array.shape):
        return False
    if panel.kind == "image":
        return array.dtype == np.uint8
    channels = array.shape[2] if array.ndim == 3 else None
    fits = {"difference": array.ndim in (2, 3), "heat": channels is None, "overlay": channels in (2, 4)}[panel.kind]
    if not fits or array.dtype.kind != "f":
        return False
    # What is no number, and what numpy warns of when it meets it, is what this looks for.
    with np.errstate(all="ignore"):
        return bool((np.abs(array.astype(np.float64)) <= _LARGEST).all())
