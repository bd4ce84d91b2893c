"""The result as Markdown for a CI job's summary or a comment: outcome first, well below 60 kB."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from auditkit.report.tasks import task_words
from auditkit.report.text import (
    VERDICT_WORDS,
    clean,
    counted,
    error_rates,
    estimate_text,
    metric_title,
    ordered,
    plural,
    requirement_text,
    split_metric,
    stopped_early,
    verdict_sentence,
)
from auditkit.report.worst import worst_cases
from auditkit.result import CheckRecord, FlagRecord, GateRecord, Result, Verdict

__all__ = ["as_code", "as_prose", "markdown_summary", "table_row"]

_SECTION_BYTES = 12_000
_CELL_CHARACTERS = 400
_MARKUP = re.compile(r"([\\`*_{}\[\]|~#$])")
_BAR, _ESCAPED_BAR = re.compile(r"(?<!\\)\|"), r"\\|"
_SIGNS = {
    Verdict.FAIL: "❌",
    Verdict.MISSING: "⭕",
    Verdict.INCONCLUSIVE: "❔",
    Verdict.WARN: "⚠️",
    Verdict.WAIVED: "🔕",
    Verdict.PASS: "✅",
    Verdict.NONE: "▫️",
}


def markdown_summary(result: Result) -> str:
    """Return the result as GitHub-flavoured Markdown, headings from h3; no text in it acts as markup."""
    sections = [
        [f"### {as_prose(verdict_sentence(result))}", "", _subject(result)],
        *([[f"> {as_prose(result.disclaimer)}"]] if result.disclaimer else []),
        list(_requirements(result)),
        list(_worst(result)),
        list(_flags(result.flags)),
        list(_checks(result.checks)),
        list(_untested(result.checks)),
    ]
    return "\n\n".join("\n".join(_fitted(lines)) for lines in sections if lines) + "\n"


def _subject(result: Result) -> str:
    model, samples = result.model, result.samples
    seed = result.settings.get("seed", "not recorded")
    early = f" (of {samples.of}: stopped as soon as all was decided)" if stopped_early(result) else ""
    return (
        f"{as_code(model.name)} ({as_prose(model.format)}, sha256 {as_code(model.digest[:12])}) on "
        f"{plural(samples.n, 'image')}{early} of {as_code(samples.source)}, seed {as_code(str(seed))}. "
        f"Intervals cover sampling error only. {task_words(result).bound}."
    )


def _requirements(result: Result) -> Iterator[str]:
    if result.gates:
        yield from ("| | Requirement | Found | Required |", "|---|---|---|---|")
        for gate in ordered(result.gates):
            yield table_row(_verdict(gate.verdict), *_requirement(result, gate))
        yield from ("", as_prose(error_rates(result)))


def _requirement(result: Result, gate: GateRecord) -> tuple[str, str, str]:
    key, metric = split_metric(gate.metric)
    title = f"{as_prose(metric_title(result.check(key), metric))} {as_code(gate.metric)}"
    found = estimate_text(gate.estimate) if gate.estimate is not None else gate.text
    found = f"{found}; {gate.note}" if gate.note is not None else found
    return title, as_prose(found), as_prose(requirement_text(gate))


def _worst(result: Result) -> Iterator[str]:
    cases = worst_cases(result)
    if cases:
        yield from ("#### Under attack", "")
        yield from (f"| Budget | Lowest {task_words(result).kept_words} | By | Images |", "|---|---|---|---|")
        for case in cases:
            found = as_prose(estimate_text(case.estimate))
            yield table_row(as_prose(case.words), found, as_code(case.check), str(case.estimate.n))


def _flags(flags: Sequence[FlagRecord]) -> Iterator[str]:
    if flags:
        yield from ("#### Read with care", "")
        for flag in flags:
            yield f"- {as_code(flag.check)} {as_prose(flag.text)} *{as_prose(flag.remedy)}*"


def _checks(checks: Sequence[CheckRecord]) -> Iterator[str]:
    done = [check for check in checks if check.status == "done"]
    if done:
        yield from ("#### Checks", "", "| Check | Metric | Found | Images |", "|---|---|---|---|")
        for check in done:
            for metric, estimate in check.metrics.items():
                title = f"{as_prose(metric_title(check, metric))} {as_code(metric)}"
                yield table_row(as_code(check.key), title, as_prose(estimate_text(estimate)), counted(estimate))


def _untested(checks: Sequence[CheckRecord]) -> Iterator[str]:
    left = [check for check in checks if check.status != "done"]
    if left:
        yield from ("#### What was not tested", "")
        for check in left:
            yield f"- {as_code(check.key)} {check.status}: {as_prose(check.reason or 'no reason was recorded')}"


def _verdict(verdict: Verdict) -> str:
    return f"{_SIGNS[verdict]} {VERDICT_WORDS[verdict]}"


def table_row(*cells: str) -> str:
    """Return cells of Markdown as a row of a table."""
    # In a table a bar ends its cell even inside a code span.
    return f"| {' | '.join(_BAR.sub(_ESCAPED_BAR, cell) for cell in cells)} |"


def _fitted(lines: Sequence[str]) -> Iterator[str]:
    """Yield lines up to the budget of a section, then how many did not fit."""
    left = _SECTION_BYTES
    for number, line in enumerate(lines):
        left -= len(line.encode()) + 1
        if left < 0:
            yield from ("", f"... and {len(lines) - number} more in the full report.")
            return
        yield line


def as_prose(text: str) -> str:
    """Escape Markdown, HTML, mentions and bare addresses."""
    text = _line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKUP.sub(r"\\\1", text)
    return text.replace("://", "\\://").replace("www.", "www\\.").replace("@", "@\u200b")


def as_code(text: str) -> str:
    """Put text in a code span, where only backticks could end it."""
    text = _line(text) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _line(text: str) -> str:
    text = " ".join(clean(text).split())
    return text if len(text) <= _CELL_CHARACTERS else text[: _CELL_CHARACTERS - 1] + "…"
