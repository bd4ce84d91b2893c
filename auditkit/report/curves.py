"""What the figures show: the curves of a result, grouped for one glance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from auditkit.report.text import estimate_text, is_share
from auditkit.result import CheckRecord, CurveRecord, PointRecord, Result

__all__ = ["Chart", "Series", "charts_of", "overview_charts"]

_SHARED = "share"


@dataclass(frozen=True)
class Series:
    """One line of a chart: a metric over its budgets, smallest first; `key` names it, `style` numbers its looks."""

    key: str
    style: int
    points: tuple[PointRecord, ...]


@dataclass(frozen=True)
class Chart:
    """Axes with one or more lines; `chance` is the accuracy of guessing where the metric is an accuracy."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    share: bool
    chance: float | None

    @property
    def description(self) -> str:
        """The chart in words, for who cannot see it."""
        return " ".join(
            f"{series.key}: {'; '.join(f'{p.label}: {estimate_text(p.estimate)}' for p in series.points)}."
            for series in self.series
        )


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
        return _chart(first, first.title, (_series(first, check, result),), result.model.classes)
    lines = tuple(Series(curve.line, number, _points(curve, check)) for number, curve in enumerate(curves))
    chart = _chart(first, first.figure, lines, result.model.classes)
    estimates = [point.estimate for line in lines for point in line.points]
    within = all(estimate.low >= 0 and estimate.high <= 1 for estimate in estimates)
    return replace(chart, y_label=_SHARED, share=within)


def overview_charts(result: Result) -> tuple[Chart, ...]:
    """Return the accuracy that most checks have a curve of: one chart a kind of budget, all checks in it."""
    curves = [(check, curve) for check in result.checks for curve in check.curves if curve.points]
    counts = Counter(curve.metric for _, curve in curves if curve.metric.endswith("accuracy"))
    if not counts:
        return ()
    metric = counts.most_common(1)[0][0]
    by_budget: dict[str, list[tuple[CheckRecord, CurveRecord]]] = {}
    for check, curve in curves:
        if curve.metric == metric:
            by_budget.setdefault(curve.x_label, []).append((check, curve))
    return tuple(
        _chart(
            group[0][1],
            f"{group[0][1].y_label} over {label}",
            tuple(_series(curve, check, result) for check, curve in group),
            result.model.classes,
        )
        for label, group in by_budget.items()
    )


def _series(curve: CurveRecord, check: CheckRecord, result: Result) -> Series:
    drawn = [other.key for other in result.checks if other.curves]
    return Series(check.key, drawn.index(check.key), _points(curve, check))


def _chart(curve: CurveRecord, title: str, series: tuple[Series, ...], classes: int) -> Chart:
    share = all(is_share(point.estimate) for line in series for point in line.points)
    chance = 1 / classes if share and curve.metric.endswith("accuracy") and classes > 0 else None
    return Chart(title, curve.x_label, curve.y_label, series, share, chance)


def _points(curve: CurveRecord, check: CheckRecord) -> tuple[PointRecord, ...]:
    points = sorted(curve.points, key=lambda point: point.x)
    unattacked = check.metrics.get("clean_accuracy")
    # Without a budget nothing is attacked: robust accuracy begins at clean accuracy.
    if curve.metric == "robust_accuracy" and unattacked is not None and points and points[0].x > 0:
        points.insert(0, PointRecord(x=0.0, label="0 (clean)", estimate=unattacked))
    return tuple(points)
