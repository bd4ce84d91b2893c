"""The reference of the checks, from what each says about itself."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from auditkit import Metric, Spec
from auditkit.plan import PRESETS, default_options
from auditkit.registry import CHECKS, DETECTOR_CHECKS, entries, load_check

__all__ = ["FOLDERS", "built_in_checks", "cell", "checks_reference"]

_DOCS = Path(__file__).parents[1]
FOLDERS = {CHECKS: "checks", DETECTOR_CHECKS: "detector_checks"}
"""Where the pages of each group of checks lie."""
_SCOPES = {
    "sample": "looks at each image by itself",
    "dataset": "learns from about half of the images, and is judged on the others",
    "calibrated": "learns from a few of the images, and is judged on all",
    "outside": "learns from a second data set (`--ood`)",
}
_GROUPS = {
    "auroc": "area under the ROC curve",
    "tpr": "share noticed",
    "fpr": "share of false alarms",
    "ratio": "share of objects",
    "precision": "average precision",
}


@functools.cache
def built_in_checks(group: str = CHECKS) -> tuple[type[Any], ...]:
    """Return the checks that have a page, by their ids; what else is installed here does not belong to the site."""
    known = {entry.id: entry for entry in entries(group)}
    return tuple(load_check(known[page.stem]) for page in sorted((_DOCS / FOLDERS[group]).glob("*.md")))


def cell(value: object) -> str:
    """Return a value as it stands in a cell of a table."""
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value)) or "none"
    return str(value).replace("|", "\\|").replace("\n", " ")


def checks_reference() -> str:
    """Return a page with needs, options, metrics and flags of every check."""
    lead = (
        "# Checks\n\nMade from the code of the checks. Each has a page that explains it; "
        "`auditkit checks show CHECK_ID` prints the same on your machine, for checks of other packages, too.\n"
    )
    return "\n".join([lead, *(_section(kind, group) for group in FOLDERS for kind in built_in_checks(group))])


def _section(kind: type[Any], group: str) -> str:
    spec: Spec = kind.spec
    heading = spec.id if group == CHECKS else f"{spec.id} of detectors"
    needs = (
        ", ".join(f"`{need.value}`" for need in sorted(spec.needs, key=lambda need: need.value)) or "nothing special"
    )
    reads = ", ".join(f"`{pattern}`" for pattern in spec.reads)
    lines = [
        f"## {heading}\n",
        f"*{spec.title}.* [What it does, and how to read it](../{FOLDERS[group]}/{spec.id}.md)\n",
        f"{inspect.getdoc(kind) or ''}\n",
        f"- needs of the model: {needs}",
        f"- {_SCOPES[spec.scope]}",
        *([f"- reads what these checks found: {reads}"] if reads else []),
        f"- presets: {', '.join(f'`{name}`' for name in PRESETS if name in spec.presets) or 'none'}",
        f"- version {spec.version}\n",
        *_options(kind, spec),
        *_metrics(spec),
        *_flags(spec),
    ]
    return "\n".join(lines)


def _options(kind: type[Any], spec: Spec) -> Iterator[str]:
    defaults = default_options(kind)
    if not defaults:
        yield "It has no options.\n"
        return
    presets = [name for name in PRESETS if name in spec.presets]
    yield f"| option | {' | '.join(['default', *presets])} |"
    yield "|---" * (2 + len(presets)) + "|"
    for name, default in defaults.items():
        chosen = [spec.presets[preset].get(name, default) for preset in presets]
        yield f"| `{name}` | {' | '.join(cell(value) for value in [default, *chosen])} |"
    yield ""


def _metrics(spec: Spec) -> Iterator[str]:
    yield "| metric | kind | what it says |"
    yield "|---|---|---|"
    in_grids = {name for grid in spec.grids for name in grid.metrics}
    for metric in spec.metrics:
        if metric.name not in in_grids:
            yield f"| `{metric.name}` | {_kind(metric)} | {cell(metric.title)} |"
    yield ""
    for grid in spec.grids:
        names = ", ".join(f"`{name}`" for name in grid.metrics)
        yield f"And in a table, *{grid.title}*: {names}.\n"


def _kind(metric: Metric) -> str:
    among = f" of those with `{metric.among}`" if metric.among else ""
    return f"{_GROUPS.get(metric.kind, metric.kind)}{among}"


def _flags(spec: Spec) -> Iterator[str]:
    if spec.flags:
        yield "Flags: " + ", ".join(f"[`{rule.id}`](../flags/{rule.id}.md)" for rule in spec.flags) + "\n"
