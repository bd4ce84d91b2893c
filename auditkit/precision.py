"""Average precision of object detectors, and how much of it was lost, each with its interval.

The value is COCO's (Lin et al. 2014), as pycocotools computes it: precision at 101 recall points, made non-increasing,
averaged over the points and over the categories that occur. The interval comes from drawing whole images again, since
what is found in one image hangs together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from auditkit.stats import CONFIDENCE, Estimate

__all__ = [
    "IOU_THRESHOLDS",
    "Matches",
    "average_precision",
    "category_precision",
    "check_matches",
    "join_matches",
    "precision_drop",
]

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)

_RECALLS = np.linspace(0.0, 1.0, 101)
_NOTHING = np.spacing(1.0)  # what pycocotools adds to a count before it divides by it
_FEWEST_IMAGES = 8
_SEED = 2014
_MOST_RESAMPLES, _FEWEST_RESAMPLES = 1000, 400
_RESAMPLED_DETECTIONS = 100_000_000
_ELEMENTS = 1 << 22

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Values = npt.NDArray[np.float64]
# From the weights of the images, one row a resample (B, N), to the value of each resample (B,).
Statistic = Callable[[Values], Values]


@dataclass(frozen=True)
class Matches:
    """How the detections on N images fared against the annotated objects.

    An image may have been looked at more than once: then its detections and its objects are listed once for each time.
    """

    image: Integers
    """The image of each detection (D,), 0..N-1."""
    category: Integers
    """The category of each detection (D,)."""
    score: npt.NDArray[np.float32]
    """The score of each detection (D,)."""
    hit: Flags
    """Whether each detection was matched to an object, at each of `IOU_THRESHOLDS` (D, 10)."""
    ignored: Flags
    """Whether it was matched to a crowd, and so counts neither for nor against (D, 10)."""
    object_image: Integers
    """The image of each object (G,), crowds left out."""
    object_category: Integers
    """The category of each object (G,), crowds left out."""


_KINDS: dict[str, type[np.generic]] = {
    "image": np.int64,
    "category": np.int64,
    "score": np.float32,
    "hit": np.bool_,
    "ignored": np.bool_,
    "object_image": np.int64,
    "object_category": np.int64,
}


def join_matches(parts: Sequence[Matches], rows: Sequence[int]) -> Matches:
    """Put the matches of several shards together; `rows[i]` is the number of images of shard i."""
    first = np.cumsum([0, *rows], dtype=np.int64)
    joined = {}
    for field in fields(Matches):
        shape = (0, len(IOU_THRESHOLDS)) if field.name in ("hit", "ignored") else (0,)
        empty: npt.NDArray[Any] = np.empty(shape, _KINDS[field.name])
        arrays = [getattr(part, field.name) for part in parts]
        if field.name in ("image", "object_image"):
            arrays = [array + start for array, start in zip(arrays, first, strict=False)]
        joined[field.name] = np.concatenate([empty, *arrays])
    return Matches(**joined)


def check_matches(matches: Matches, n: int) -> str | None:
    """Return one line that says what is wrong with `matches` of `n` images, or None."""
    detections, objects = len(np.atleast_1d(matches.image)), len(np.atleast_1d(matches.object_image))
    for name, kind in _KINDS.items():
        array = getattr(matches, name)
        shape: tuple[int, ...] = (objects if name.startswith("object") else detections,)
        if name in ("hit", "ignored"):
            shape = (detections, len(IOU_THRESHOLDS))
        if not isinstance(array, np.ndarray) or array.dtype != kind or array.shape != shape:
            got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            return f"matches need {name} as {np.dtype(kind)} {shape}, not {got}"
    for name in ("image", "object_image"):
        rows = getattr(matches, name)
        if rows.size and not 0 <= rows.min() <= rows.max() < n:
            return f"matches need {name} within 0..{n - 1}, not {rows.min()}..{rows.max()}"
    if not np.isfinite(matches.score).all():
        return "matches need finite scores"
    if (matches.hit & matches.ignored).any():
        return "matches need each detection to hit an object or to be ignored, not both"
    return _more_hits_than_objects(matches)


def average_precision(matches: Matches, n: int, iou: float | None = None) -> Estimate | None:
    """Estimate the average precision over `n` images, the mean over the categories with objects.

    `iou` is one of `IOU_THRESHOLDS`; None: the mean over all ten. The answer is None where there is no object.

    Raises:
        ValueError: `iou` is not one of the thresholds.
    """
    return _estimate([matches], n, iou, least=0.0)


def precision_drop(before: Matches, after: Matches, n: int, iou: float | None = None) -> Estimate | None:
    """Estimate how much average precision was lost from `before` to `after` on the same `n` images.

    An image that is drawn again is drawn for both, so what the two share cancels out. The answer is None where either
    has no object.

    Raises:
        ValueError: `iou` is not one of the thresholds.
    """
    return _estimate([before, after], n, iou, least=-1.0)


def category_precision(matches: Matches, n: int, iou: float | None = None) -> dict[int, Estimate]:
    """Estimate the average precision of each category with objects, by category.

    Raises:
        ValueError: `iou` is not one of the thresholds.
    """
    categories = [int(category) for category in np.unique(matches.object_category)]
    estimates = [average_precision(_of_category(matches, category), n, iou) for category in categories]
    return {category: found for category, found in zip(categories, estimates, strict=True) if found is not None}


@dataclass(frozen=True)
class _Ranked:
    """The detections of one category, best first, and its objects."""

    image: Integers  # (D,)
    hit: Flags  # (T, D)
    counted: Flags  # (T, D)
    objects: Values  # (N,)


def _more_hits_than_objects(matches: Matches) -> str | None:
    places = np.stack([np.r_[matches.image, matches.object_image], np.r_[matches.category, matches.object_category]])
    distinct, place = np.unique(places, axis=1, return_inverse=True)
    place = place.reshape(-1)
    detections = len(matches.image)
    objects = np.bincount(place[detections:], minlength=distinct.shape[1])
    for hit in matches.hit.T:
        too_many = np.bincount(place[:detections][hit], minlength=distinct.shape[1]) > objects
        if too_many.any():
            image, category = distinct[:, too_many.argmax()]
            return (
                f"matches need a hit an object at most, not more hits than objects (image {image}, category {category})"
            )
    return None


def _columns(iou: float | None) -> Integers:
    """Return the columns of the thresholds that `iou` asks for."""
    if iou is None:
        return np.arange(len(IOU_THRESHOLDS))
    column = np.flatnonzero(np.isclose(IOU_THRESHOLDS, iou, rtol=0, atol=1e-9))
    if not column.size:
        raise ValueError(f"the threshold needs to be one of 0.5, 0.55, ..., 0.95, not {iou}")
    return column


def _of_category(matches: Matches, category: int) -> Matches:
    """Return what `matches` says of one category."""
    ours, objects = matches.category == category, matches.object_category == category
    return Matches(
        **{
            field.name: getattr(matches, field.name)[objects if field.name.startswith("object") else ours]
            for field in fields(Matches)
        }
    )


def _ranked(matches: Matches, n: int, columns: Integers) -> _Ranked:
    """Put the detections of one category into the order of pycocotools: by score, then by image, then as listed."""
    order = np.lexsort((matches.image, -matches.score))
    hit, ignored = (flags[order][:, columns].T for flags in (matches.hit, matches.ignored))
    objects = np.bincount(matches.object_image, minlength=n).astype(np.float64)
    return _Ranked(matches.image[order], hit & ~ignored, ~ignored, objects)


def _statistic(matches: Matches, n: int, columns: Integers) -> Statistic:
    """Return the function that computes the average precision of resampled images from their weights."""
    categories = [_ranked(_of_category(matches, each), n, columns) for each in np.unique(matches.object_category)]

    def statistic(weights: Values) -> Values:
        total, present = np.zeros(len(weights)), np.zeros(len(weights))
        for ranked in categories:
            objects = weights @ ranked.objects
            total += _resampled(ranked, weights, objects)
            present += objects > 0
        values: Values = np.full(len(weights), np.nan)
        np.divide(total, present, out=values, where=present > 0)
        return values

    return statistic


def _resampled(ranked: _Ranked, weights: Values, objects: Values) -> Values:
    """Return the average precision (B,) of one category among `objects` (B,); 0 without any.

    Precision rises at a hit and falls at a miss, so the largest precision from some recall on is that of a hit. Each
    hit thus stands for the recall points that it is the first to reach. A weight of w is the same as w equal images one
    after the other: among w equal hits the last has the largest precision.
    """
    drawn = weights[:, ranked.image]
    seen_by_all = np.cumsum(drawn, axis=1)
    total = np.zeros(len(weights))
    for hit, counted in zip(ranked.hit, ranked.counted, strict=True):
        seen = seen_by_all if counted.all() else np.cumsum(drawn * counted, axis=1)
        found = np.cumsum(drawn[:, hit], axis=1)
        precision = found / (seen[:, hit] + _NOTHING)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(_RECALLS, found / np.maximum(objects, 1)[:, None], side="right")
        total += (precision * np.diff(reached, axis=1, prepend=0)).sum(axis=1)
    return total / (len(ranked.hit) * len(_RECALLS))


def _estimate(compared: Sequence[Matches], n: int, iou: float | None, least: float) -> Estimate | None:
    """Estimate the average precision of one `compared`, or that of the first less that of the second.

    The interval is the percentile bootstrap's, widened as Hesterberg 2015 widens it for few images. It never claims to
    know what images unlike all seen would do: n images without one still allow a share of 1 - 0.025 ** (1/n) of such.
    """
    columns = _columns(iou)
    images = min(len(np.unique(each.object_image)) for each in compared)
    if images == 0:
        return None
    statistics = [_statistic(each, n, columns) for each in compared]

    def statistic(weights: Values) -> Values:
        first, *second = (each(weights) for each in statistics)
        return first - second[0] if second else first

    value = float(statistic(np.ones((1, n)))[0])
    if images < _FEWEST_IMAGES:
        method = f"everything possible (fewer than {_FEWEST_IMAGES} images with objects)"
        return Estimate(value=value, low=least, high=1.0, n=n, method=method)
    detections = sum(len(each.image) for each in compared)
    low, high = _bootstrap(statistic, value, n, images, detections)
    unseen = 1 - ((1 - CONFIDENCE) / 2) ** (1 / images)
    low, high = min(low, value - unseen * (value - least)), max(high, value + unseen * (1 - value))
    return Estimate(value=value, low=low, high=high, n=n, method="bootstrap over images (percentile)")


def _bootstrap(statistic: Statistic, value: float, n: int, images: int, detections: int) -> tuple[float, float]:
    """Return the interval from drawing `n` images again and again, as often as so many detections allow."""

    def of_rows(rows: Integers, axis: int) -> Values:
        resamples = rows.reshape(-1, n)
        start = n * np.arange(len(resamples))[:, None]
        weights = np.bincount((resamples + start).ravel(), minlength=resamples.size).reshape(resamples.shape)
        values = statistic(weights.astype(np.float64))
        # Images without any object say nothing.
        return np.where(np.isnan(values), value, values)

    # Every audit and every worker would wait more than a second for it, and only detectors need it.
    from scipy import stats

    tail = special.ndtr(math.sqrt(images / (images - 1)) * special.stdtrit(images - 1, (1 - CONFIDENCE) / 2))
    found = stats.bootstrap(
        (np.arange(n),),
        of_rows,
        n_resamples=int(np.clip(_RESAMPLED_DETECTIONS // max(detections, 1), _FEWEST_RESAMPLES, _MOST_RESAMPLES)),
        batch=max(1, _ELEMENTS // max(n, detections)),
        vectorized=True,
        axis=-1,
        confidence_level=1 - 2 * tail,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
