"""What the page shows, ready for the templates: every figure drawn, every picture hung."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from auditkit.report.bars import gate_bar
from auditkit.report.curves import Chart, charts_of, overview_charts
from auditkit.report.figures import draw_chart, swatch
from auditkit.report.gallery import Gallery, HungExhibit
from auditkit.report.pictures import heat_colours
from auditkit.report.text import (
    VERDICT_WORDS,
    Headline,
    headline,
    metric_title,
    ordered,
    split_metric,
)
from auditkit.report.worst import Worst, worst_cases
from auditkit.result import CheckRecord, FlagRecord, GateRecord, Result, Verdict
from auditkit.stats import Estimate

__all__ = ["CheckView", "FigureView", "GateView", "PageView", "anchor", "build_page"]

_VOLATILE_DATE, _VOLATILE_VERSIONS = "date", "versions"


@dataclass(frozen=True)
class GateView:
    """A requirement with the words and the bar of its row."""

    record: GateRecord
    check: CheckRecord | None
    title: str
    word: str
    bar: Markup


@dataclass(frozen=True)
class FigureView:
    """A drawn chart."""

    chart: Chart
    svg: Markup
    swatches: tuple[Markup, ...]


@dataclass(frozen=True)
class CheckView:
    """A check with its figures, its gallery and what was demanded of it."""

    record: CheckRecord
    verdict: Verdict
    word: str
    gates: tuple[GateRecord, ...]
    key_metric: str | None
    figures: tuple[FigureView, ...]
    exhibits: tuple[HungExhibit, ...]
    left_out: int
    flags: tuple[FlagRecord, ...]

    @property
    def main_metrics(self) -> dict[str, Estimate]:
        """The metrics to show at once: where a figure shows every budget, those of the largest alone."""
        found = self.record.metrics
        plain = {name: estimate for name, estimate in found.items() if "@" not in name}
        return plain if plain and self.figures else found

    @property
    def more_metrics(self) -> dict[str, Estimate]:
        """The metrics that `main_metrics` leaves out."""
        return {name: estimate for name, estimate in self.record.metrics.items() if name not in self.main_metrics}

    @property
    def key_estimate(self) -> Estimate | None:
        """The estimate that stands for the check in a list of checks."""
        return self.record.metrics[self.key_metric] if self.key_metric is not None else None


@dataclass(frozen=True)
class PageView:
    """Everything that the templates read."""

    result: Result
    headline: Headline
    gates: tuple[GateView, ...]
    worst: tuple[Worst, ...]
    overview: tuple[FigureView, ...]
    checks: tuple[CheckView, ...]
    heat_scale: Markup
    date: str
    version: str

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


def build_page(result: Result, gallery: Gallery) -> PageView:
    """Return the content of the page of `result`."""
    versions = result.volatile.get(_VOLATILE_VERSIONS)
    versions = versions if isinstance(versions, Mapping) else {}
    return PageView(
        result=result,
        headline=headline(result),
        gates=tuple(_gate(result, gate) for gate in ordered(result.gates)),
        worst=tuple(worst_cases(result)),
        overview=tuple(
            _figure(chart, f"overview-{number}", bands=False) for number, chart in enumerate(overview_charts(result))
        ),
        checks=tuple(_check(result, check, gallery, f"check-{number}") for number, check in enumerate(result.checks)),
        heat_scale=_heat_scale() if any(_has_heat(check) for check in result.checks) else Markup(""),
        date=_date(result.volatile.get(_VOLATILE_DATE)),
        version=str(versions.get("auditkit", "not recorded")),
    )


def _date(recorded: object) -> str:
    """Return an ISO date and time in UTC as people write it; anything else as it is."""
    text = "not recorded" if recorded is None else str(recorded)
    return f"{text[:10]} {text[11:16]} UTC" if text.endswith("+00:00") and text[10:11] == "T" else text


def anchor(key: str) -> str:
    """Return the id of a check's evidence: its key, without what an id or an address cannot hold."""
    return re.sub(r"[^\w.@:-]", "-", key)


def _gate(result: Result, gate: GateRecord) -> GateView:
    key, metric = split_metric(gate.metric)
    check = result.check(key)
    # The bar holds numbers and its own markup only.
    bar = Markup(gate_bar(gate))  # noqa: S704
    return GateView(gate, check, metric_title(check, metric), VERDICT_WORDS[gate.verdict], bar)


def _check(result: Result, check: CheckRecord, gallery: Gallery, prefix: str) -> CheckView:
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
        key_metric=_key_metric(check, gates),
        figures=tuple(_figure(chart, f"{prefix}-{number}", bands=True) for number, chart in enumerate(charts)),
        exhibits=gallery.rows.get(check.key, ()),
        left_out=gallery.left_out.get(check.key, 0),
        flags=tuple(flag for flag in result.flags if flag.check == check.key),
    )


def _key_metric(check: CheckRecord, gates: tuple[GateRecord, ...]) -> str | None:
    gated = (split_metric(gate.metric)[1] for gate in gates)
    return next((name for name in (*gated, "robust_accuracy", *check.metrics) if name in check.metrics), None)


def _figure(chart: Chart, prefix: str, *, bands: bool) -> FigureView:
    # matplotlib escapes the texts of a chart; nothing else in it comes from outside.
    swatches = tuple(Markup(swatch(series)) for series in chart.series)  # noqa: S704
    return FigureView(chart, Markup(draw_chart(chart, prefix, bands=bands)), swatches)  # noqa: S704


def _has_heat(check: CheckRecord) -> bool:
    return any(panel.kind == "heat" for exhibit in check.exhibits for panel in exhibit.panels)


def _heat_scale() -> Markup:
    """Return the colours of heat panels as a strip, dark to bright."""
    colours = heat_colours()[8::16]
    steps = "".join(
        f'<rect x="{8 * number}" width="8" height="12" fill="#{bytes(colour).hex()}"/>'
        for number, colour in enumerate(colours)
    )
    return Markup(f'<svg width="128" height="12" viewBox="0 0 128 12" aria-hidden="true">{steps}</svg>')  # noqa: S704
