"""A comparison of two audits as a web page, as Markdown, and as lines for a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from auditkit.comparison import Comparison, MetricChange
from auditkit.report.environment import environment_of, style_of_page
from auditkit.report.markdown import as_code, as_prose, table_row
from auditkit.report.text import VERDICT_WORDS, date_text, estimate_text, is_share_change
from auditkit.stats import Estimate

__all__ = ["compared_html", "compared_lines", "compared_markdown"]

_WIDTH, _HEIGHT, _EDGE = 200, 26, 6
_MOST_ROWS = 60


@dataclass(frozen=True)
class _Row:
    change: MetricChange
    bar: Markup
    chance: str


def compared_html(comparison: Comparison) -> str:
    """Return the comparison as one page that needs no script, no network and no other file."""
    # One scale for all shares, so that rows can be compared at a glance; other units have a scale a row.
    shares = [change.rise for change in comparison.changes if change.rise is not None and is_share_change(change.rise)]
    reach = max((_reach(rise) for rise in shares), default=1.0)
    rows = [_Row(change, Markup(_bar(change.rise, reach)), _chance(change)) for change in comparison.changes]  # noqa: S704
    return (
        environment_of(None)
        .get_template("compare.html.j2")
        .render(
            comparison=comparison,
            moved=[row for row in rows if row.change.moved],
            still=[row for row in rows if row.change.rise is not None and not row.change.moved],
            apart=[row for row in rows if row.change.rise is None],
            words=VERDICT_WORDS,
            dates=[date_text(side.date) for side in (comparison.base, comparison.new)],
            css=Markup(style_of_page(None)),  # noqa: S704
        )
    )


def _chance(change: MetricChange) -> str:
    if change.p_value is None:
        return ""
    return "< 0.001" if change.p_value < 0.001 else f"{change.p_value:.3f}"


def _reach(rise: Estimate) -> float:
    return max(abs(rise.low), abs(rise.high)) or 1.0


def _bar(rise: Estimate | None, of_shares: float) -> str:
    """Return the change and its interval around zero, which lies in the middle, as inline SVG."""
    if rise is None:
        return ""
    reach = of_shares if is_share_change(rise) else _reach(rise)

    def place(value: float) -> float:
        return round(_WIDTH / 2 + value / reach * (_WIDTH / 2 - _EDGE), 1)

    low, value, high = (place(x) for x in (rise.low, rise.value, rise.high))
    middle = _HEIGHT // 2
    return (
        f'<svg class="bar" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-hidden="true">'
        f'<path d="M{_EDGE} {middle}H{_WIDTH - _EDGE}" stroke="#808890" stroke-opacity="0.5"/>'
        f'<rect x="{low}" y="{middle - 5}" width="{max(high - low, 2):.1f}" height="10" rx="2" fill="currentColor"'
        f' fill-opacity="0.4"/><circle cx="{value}" cy="{middle}" r="3.5" fill="currentColor"/>'
        f'<path class="tick" d="M{_WIDTH // 2} 1V{_HEIGHT - 1}" stroke="#808890" stroke-width="2"/></svg>'
    )


def compared_lines(comparison: Comparison) -> list[str]:
    """Return the comparison as lines of text: what moved, and what could not be compared."""
    lines = [comparison.sentence()]
    for change in comparison.moved:
        lines.append(
            f"{change.check}/{change.metric}: {estimate_text(change.before)} -> {estimate_text(change.after)}, "
            f"change {_rise(change)}, p {_chance(change)}"
        )
    reasons = dict.fromkeys(change.reason for change in comparison.changes if change.reason is not None)
    lines += [f"not compared: {reason}" for reason in reasons]
    for where, keys in (("baseline", comparison.only_in_base), ("new audit", comparison.only_in_new)):
        lines += [f"only in the {where}: {', '.join(keys)}"] if keys else []
    return lines


def _rise(change: MetricChange) -> str:
    return estimate_text(change.rise) if change.rise is not None else "not known"


def compared_markdown(comparison: Comparison) -> str:
    """Return the comparison as GitHub-flavoured Markdown, headings from h3; no text in it acts as markup."""
    sides = (comparison.base, comparison.new)
    lines = [
        f"### {as_prose(comparison.sentence())}",
        "",
        "Baseline {}, new {}.".format(*(f"{as_code(s.model.name)} ({as_code(s.model.digest[:12])})" for s in sides)),
        "",
    ]
    if comparison.moved:
        lines += ["| Metric | Before | After | Change | p (Holm) |", "|---|---|---|---|---|"]
    for change in comparison.moved[:_MOST_ROWS]:
        name = f"{as_prose(change.title)} {as_code(f'{change.check}/{change.metric}')}"
        found = (estimate_text(change.before), estimate_text(change.after), _rise(change))
        lines.append(table_row(name, *(as_prose(text) for text in found), _chance(change)))
    if len(comparison.moved) > _MOST_ROWS:
        lines += ["", f"... and {len(comparison.moved) - _MOST_ROWS} more."]
    return "\n".join(lines) + "\n"
