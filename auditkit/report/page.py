"""What the page shows, ready for the templates: every figure drawn, every picture hung."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from markupsafe import Markup

from auditkit.report.bars import gate_bar
from auditkit.report.curves import Chart, charts_of, overview_charts
from auditkit.report.digests import signed_digests
from auditkit.report.drawing import swatch
from auditkit.report.figures import draw_chart
from auditkit.report.gallery import Layout
from auditkit.report.plain_words import plain_words
from auditkit.report.profile_figure import axis_names, draw_profile
from auditkit.report.profiles import Row, profile_rows, profile_takeaway
from auditkit.report.reason import verdict_reason
from auditkit.report.tables import SHOWN_ROWS, TableView, table_view
from auditkit.report.tasks import TaskWords, task_words
from auditkit.report.text import (
    VERDICT_WORDS,
    Headline,
    date_text,
    error_rates,
    gate_sentence,
    headline,
    metric_title,
    ordered,
    split_metric,
    stopped_early,
)
from auditkit.report.worst import Worst, worst_cases
from auditkit.result import CheckRecord, FlagRecord, GateRecord, PointRecord, ProfileRecord, Result, Verdict
from auditkit.stats import Estimate

__all__ = ["CheckView", "FigureView", "GateView", "PageView", "ProfileView", "anchor", "build_page"]

_VOLATILE_DATE, _VOLATILE_VERSIONS = "date", "versions"
# The check that ranks images by how easily they fall has a section of its own.
_HARD = "samples.hard"
# The metric whose estimate rests on all annotated objects.
_OF_ALL_OBJECTS = "found_rate"
# Of a table and of all long tables together, in a single file, so that it can be mailed and has room for pictures.
_MOST_ROWS, _MOST_ROWS_TOGETHER = 300, 600
_MOST_POINTS = 21


@dataclass(frozen=True)
class GateView:
    """A requirement with the words and the bar of its row."""

    record: GateRecord
    check: CheckRecord | None
    title: str
    word: str
    bar: Markup
    sentence: str


@dataclass(frozen=True)
class FigureView:
    """A drawn chart; `points` are those of its table, a line each, and `thinned` says that some are left out."""

    chart: Chart
    svg: Markup
    swatches: tuple[Markup, ...]
    points: tuple[tuple[PointRecord, ...], ...]
    thinned: bool


@dataclass(frozen=True)
class ProfileView:
    """A drawn profile; `numbered` says that its axis has numbers, and the table the names."""

    record: ProfileRecord
    svg: Markup
    swatches: tuple[Markup, ...]
    rows: tuple[Row, ...]
    takeaway: str
    numbered: bool


@dataclass(frozen=True)
class CheckView:
    """A check with its figures, its tables and what was demanded of it."""

    record: CheckRecord
    verdict: Verdict
    word: str
    gates: tuple[GateRecord, ...]
    key_metric: str | None
    figures: tuple[FigureView, ...]
    profiles: tuple[ProfileView, ...]
    tables: tuple[TableView, ...]
    flags: tuple[FlagRecord, ...]

    @property
    def main_metrics(self) -> dict[str, Estimate]:
        """The metrics to show at once: where a figure shows every budget, those of the largest alone."""
        found = self._listed
        plain = {name: estimate for name, estimate in found.items() if "@" not in name}
        return plain if plain and self.figures else found

    @property
    def more_metrics(self) -> dict[str, Estimate]:
        """The metrics that `main_metrics` leaves out."""
        return {name: estimate for name, estimate in self._listed.items() if name not in self.main_metrics}

    @property
    def _listed(self) -> dict[str, Estimate]:
        """The metrics that stand in no table."""
        tabulated = set(self.record.tabulated)
        return {name: estimate for name, estimate in self.record.metrics.items() if name not in tabulated}

    @property
    def key_estimate(self) -> Estimate | None:
        """The estimate that stands for the check in a list of checks."""
        return self.record.metrics[self.key_metric] if self.key_metric is not None else None


@dataclass(frozen=True)
class PageView:
    """Everything that the templates read."""

    result: Result
    task: TaskWords
    headline: Headline
    reason: str | None
    words: tuple[str, ...]
    gates: tuple[GateView, ...]
    worst: tuple[Worst, ...]
    overview: tuple[FigureView, ...]
    checks: tuple[CheckView, ...]
    signed: tuple[tuple[str, str], ...]
    date: str
    version: str

    @property
    def hard(self) -> tuple[CheckView, ...]:
        """The checks that rank images by how easily they fall, and show those that do."""
        return tuple(check for check in self.done if check.record.id == _HARD and check.record.exhibits)

    @property
    def objects(self) -> int | None:
        """How many annotated objects the images hold, None where no check counted them."""
        counts = (check.record.metrics.get(_OF_ALL_OBJECTS) for check in self.done)
        return next((count.n for count in counts if count is not None), None)

    @property
    def error_rates(self) -> str:
        """How often the verdict is wrong by the luck of the draw."""
        return error_rates(self.result)

    @property
    def stopped_early(self) -> bool:
        """Whether images were left out because every requirement was decided without them."""
        return stopped_early(self.result)

    @property
    def doubts(self) -> tuple[FlagRecord, ...]:
        """The flags that cast doubt on attacks with gradients."""
        return tuple(flag for flag in self.result.flags if flag.doubts)

    @property
    def done(self) -> tuple[CheckView, ...]:
        """The checks that were run to their end."""
        return tuple(check for check in self.checks if check.record.status == "done")

    @property
    def untested(self) -> tuple[CheckView, ...]:
        """The checks that gave nothing."""
        return tuple(check for check in self.checks if check.record.status != "done")


def build_page(result: Result, layout: Layout) -> PageView:
    """Return the content of the page of `result`, all but the pictures."""
    versions = result.volatile.get(_VOLATILE_VERSIONS)
    versions = versions if isinstance(versions, Mapping) else {}
    most_rows = _most_rows(result) if layout == "single" else None
    return PageView(
        result=result,
        task=task_words(result),
        headline=headline(result),
        reason=verdict_reason(result),
        words=plain_words(result),
        gates=tuple(_gate(result, gate) for gate in ordered(result.gates)),
        worst=tuple(worst_cases(result)),
        overview=tuple(
            _figure(chart, f"overview-{number}", bands=False) for number, chart in enumerate(overview_charts(result))
        ),
        checks=tuple(_check(result, check, most_rows, f"check-{number}") for number, check in enumerate(result.checks)),
        signed=tuple(signed_digests(result)),
        date=date_text(result.volatile.get(_VOLATILE_DATE)),
        version=str(versions.get("auditkit", "not recorded")),
    )


def anchor(key: str) -> str:
    """Return the id of a check's evidence: its key, without what an id or an address cannot hold."""
    return re.sub(r"[^\w.@:-]", "-", key)


def _gate(result: Result, gate: GateRecord) -> GateView:
    key, metric = split_metric(gate.metric)
    check = result.check(key)
    # The bar holds numbers and its own markup only.
    bar = Markup(gate_bar(gate))  # noqa: S704
    title = metric_title(check, metric)
    return GateView(gate, check, title, VERDICT_WORDS[gate.verdict], bar, gate_sentence(gate))


def _most_rows(result: Result) -> int:
    long = sum(len(table.rows) > SHOWN_ROWS for check in result.checks for table in check.tables)
    return max(min(_MOST_ROWS, _MOST_ROWS_TOGETHER // max(long, 1)), SHOWN_ROWS)


def _check(result: Result, check: CheckRecord, most_rows: int | None, prefix: str) -> CheckView:
    gates = tuple(gate for gate in ordered(result.gates) if split_metric(gate.metric)[0] == check.key)
    verdict = gates[0].verdict if gates else Verdict.NONE
    word = VERDICT_WORDS[verdict]
    if check.status != "done":
        verdict = Verdict.MISSING if check.status == "failed" else Verdict.NONE
        word = "Failed to run" if check.status == "failed" else "Skipped"
    charts = charts_of(check, result)
    return CheckView(
        record=check,
        verdict=verdict,
        word=word,
        gates=gates,
        key_metric=_key_metric(check, gates, task_words(result).key_metrics),
        figures=tuple(
            _figure(chart, f"{prefix}-{number}", bands=True, most_points=None if most_rows is None else _MOST_POINTS)
            for number, chart in enumerate(charts)
        ),
        profiles=tuple(
            _profile(profile, f"{prefix}-profile-{number}") for number, profile in enumerate(check.profiles)
        ),
        tables=tuple(table_view(table, most_rows) for table in check.tables),
        flags=tuple(flag for flag in result.flags if flag.check == check.key),
    )


def _key_metric(check: CheckRecord, gates: tuple[GateRecord, ...], usual: tuple[str, ...]) -> str | None:
    gated = (split_metric(gate.metric)[1] for gate in gates)
    first = (name for name in check.metrics if name in usual)
    return next((name for name in (*gated, *first, *check.metrics) if name in check.metrics), None)


def _figure(chart: Chart, prefix: str, *, bands: bool, most_points: int | None = None) -> FigureView:
    # matplotlib escapes the texts of a chart; nothing else in it comes from outside.
    svg = Markup(draw_chart(chart, prefix, bands=bands))  # noqa: S704
    points = tuple(series.spread(most_points) for series in chart.series)
    thinned = any(len(told) < len(series.points) for told, series in zip(points, chart.series, strict=True))
    return FigureView(chart, svg, _swatches(series.style for series in chart.series), points, thinned)


def _profile(profile: ProfileRecord, prefix: str) -> ProfileView:
    return ProfileView(
        record=profile,
        # As in a chart, matplotlib escapes the texts.
        svg=Markup(draw_profile(profile, prefix)),  # noqa: S704
        swatches=_swatches(range(len(profile.lines))),
        rows=tuple(profile_rows(profile)),
        takeaway=profile_takeaway(profile),
        numbered=axis_names(profile) is None,
    )


def _swatches(styles: Iterable[int]) -> tuple[Markup, ...]:
    return tuple(Markup(swatch(style)) for style in styles)  # noqa: S704
