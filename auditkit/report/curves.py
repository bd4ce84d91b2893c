"""What the figures show: the curves of a result, grouped for one glance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from auditkit.report.tasks import task_words
from auditkit.report.text import estimate_text, is_share
from auditkit.result import CheckRecord, CurveRecord, PointRecord, Result

__all__ = ["Chart", "Series", "charts_of", "overview_charts"]

_SHARED, _SHARED_PRECISION = "share", "average precision"
_HITS = "hits"
# Shares of images that are classified correctly: what guessing reaches of them is known.
_ACCURACIES = frozenset({"accuracy", "robust_accuracy", "worst_case_accuracy"})
# Each at the end of a name that says whose it is, such as `noise_ap50`.
_PRECISIONS = ("ap50", "ap75", "ap")
# Where the title of the metric has no room.
_SHORT = {"ap50": "AP50", "ap75": "AP75"}
_TOLD, _BANDS_OF_ROC = 12, 3


@dataclass(frozen=True)
class Series:
    """One line of a chart: a metric over its budgets, smallest first; `key` names it, `style` numbers its looks."""

    key: str
    style: int
    points: tuple[PointRecord, ...]

    @property
    def words(self) -> str:
        """The line in words: all of its points, or a dozen spread over them."""
        texts = (f"{point.label}: {estimate_text(point.estimate)}" for point in self.spread(_TOLD))
        return f"{self.key}: {'; '.join(texts)}."

    def spread(self, most: int | None) -> tuple[PointRecord, ...]:
        """Return at most so many points, spread evenly over the line, with its ends."""
        count = len(self.points) if most is None else min(len(self.points), most)
        last = len(self.points) - 1
        return tuple(self.points[round(number * last / max(count - 1, 1))] for number in range(count))


@dataclass(frozen=True)
class Chart:
    """Axes with one or more lines.

    `chance` is the accuracy of guessing where the metric is an accuracy. A chart of hits over false alarms, `roc`, has
    shares on both axes, and chance is its diagonal.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    share: bool
    chance: float | None
    roc: bool

    @property
    def bands(self) -> bool:
        """Whether bands show the intervals; those of many lines that begin and end together would hide each other."""
        return not self.roc or len(self.series) <= _BANDS_OF_ROC

    @property
    def description(self) -> str:
        """The chart in words, for who cannot see it."""
        return " ".join(series.words for series in self.series)


def charts_of(check: CheckRecord, result: Result) -> tuple[Chart, ...]:
    """Return the charts of one check: one for each curve, and one for all curves that name the same figure."""
    figures: dict[str, list[CurveRecord]] = {}
    for number, curve in enumerate(check.curves):
        if curve.points:
            figures.setdefault(curve.figure or f"\0{number}", []).append(curve)
    return tuple(_chart_of(curves, check, result) for curves in figures.values())


def _chart_of(curves: Sequence[CurveRecord], check: CheckRecord, result: Result) -> Chart:
    first = curves[0]
    if first.figure is None:
        return _chart(curves, first.title, _y_label(first), (_series(first, check, result),), result)
    lines = tuple(Series(curve.line, number, _points(curve, check)) for number, curve in enumerate(curves))
    precisions = all(curve.metric.rpartition("_")[2] in _PRECISIONS for curve in curves)
    return _chart(curves, first.figure, _SHARED_PRECISION if precisions else _SHARED, lines, result)


def overview_charts(result: Result) -> tuple[Chart, ...]:
    """Return the accuracy that most checks have a curve of: one chart a kind of budget, all checks in it.

    Of a detector it is the average precision.
    """
    told = _ACCURACIES if result.model.task == "classification" else {task_words(result).kept}
    curves = [
        (check, curve)
        for check in result.checks
        for curve in check.curves
        if curve.points and curve.metric in told and not curve.roc
    ]
    if not curves:
        return ()
    metric = Counter(curve.metric for _, curve in curves).most_common(1)[0][0]
    by_budget: dict[str, list[tuple[CheckRecord, CurveRecord]]] = {}
    for check, curve in curves:
        if curve.metric == metric:
            by_budget.setdefault(curve.x_label, []).append((check, curve))
    return tuple(
        _chart(
            [curve for _, curve in group],
            f"{_y_label(group[0][1])} over {label}",
            _y_label(group[0][1]),
            tuple(_series(curve, check, result) for check, curve in group),
            result,
        )
        for label, group in by_budget.items()
    )


def _y_label(curve: CurveRecord) -> str:
    return _SHORT.get(curve.metric, curve.y_label)


def _series(curve: CurveRecord, check: CheckRecord, result: Result) -> Series:
    drawn = [other.key for other in result.checks if other.curves]
    return Series(check.key, drawn.index(check.key), _points(curve, check))


def _chart(
    curves: Sequence[CurveRecord], title: str, y_label: str, series: tuple[Series, ...], result: Result
) -> Chart:
    estimates = [point.estimate for line in series for point in line.points]
    within = all(estimate.low >= 0 and estimate.high <= 1 for estimate in estimates)
    roc = within and all(curve.roc for curve in curves)
    share = roc or (within and (curves[0].figure is not None or all(map(is_share, estimates))))
    guessable = share and not roc and curves[0].metric in _ACCURACIES and result.model.classes > 0
    return Chart(
        title=title,
        x_label=curves[0].x_label,
        y_label=_HITS if roc else y_label,
        series=series,
        share=share,
        chance=1 / result.model.classes if guessable else None,
        roc=roc,
    )


def _points(curve: CurveRecord, check: CheckRecord) -> tuple[PointRecord, ...]:
    points = sorted(curve.points, key=lambda point: point.x)
    unattacked = check.metrics.get("clean_accuracy")
    # Without a budget nothing is attacked: robust accuracy begins at clean accuracy.
    if curve.metric == "robust_accuracy" and unattacked is not None and points and points[0].x > 0:
        points.insert(0, PointRecord(x=0.0, label="0 (clean)", estimate=unattacked))
    return tuple(points)
