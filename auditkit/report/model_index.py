"""The result as a `model-index`: the block of a Hugging Face model card that holds measured metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from auditkit.report.tasks import task_words
from auditkit.report.text import clean, metric_title
from auditkit.result import CheckRecord, Result

__all__ = ["model_index"]

_SEPARATOR = re.compile(r"[/\\]")
_PLAIN_KEY = re.compile(r"[a-z]+(-[a-z]+)*")
# YAML does not take these as they are, or takes them for the end of a line.
_TO_ESCAPE = re.compile("[\x7f-\uffff]")


def model_index(result: Result) -> str:
    """Return the metrics as YAML, to be put between the `---` of a model card; an attack's options stand in `args`."""
    task = task_words(result)
    entry = {
        "name": result.model.name,
        "results": [
            {
                "task": {"type": task.hub_task, "name": task.hub_name},
                "dataset": {
                    "type": _last_part(result.samples.source),
                    "name": _last_part(result.samples.source),
                    "args": {"images": result.samples.n, "fingerprint": result.samples.fingerprint},
                },
                "metrics": [metric for check in result.checks for metric in _metrics(check)],
            }
        ],
    }
    return "\n".join(_lines({"model-index": [entry]})) + "\n"


def _metrics(check: CheckRecord) -> Iterator[dict[str, Any]]:
    """Yield the metrics of a check that ran; those that stand in its tables, too, are left to the report."""
    if check.status != "done":
        return
    for metric, estimate in check.metrics.items():
        if metric in check.tabulated:
            continue
        name, _, budget = metric.partition("@")
        yield {
            "type": name,
            "value": estimate.value,
            "name": f"{metric_title(check, metric)} ({check.key})",
            "args": {
                "check": check.key,
                **({"budget": budget} if budget else {}),
                "low": estimate.low,
                "high": estimate.high,
                ("objects" if estimate.of_objects else "images"): estimate.n,
                **({"attack": _options(check)} if check.threat_model is not None else {}),
            },
        }


def _options(check: CheckRecord) -> str:
    return json.dumps(check.options, sort_keys=True, allow_nan=False, ensure_ascii=False)


def _last_part(source: str) -> str:
    """Return a path without its folders: a model card is published, and they tell of the author's machine only."""
    return _SEPARATOR.split(source.rstrip("/\\"))[-1] or source


def _lines(value: Any) -> Iterator[str]:
    """Yield plain data as lines of block YAML: mappings and sequences in lines, everything else as in JSON."""
    if isinstance(value, dict):
        for name, item in value.items():
            key = name if _PLAIN_KEY.fullmatch(name) else _scalar(name)
            if _is_block(item):
                yield f"{key}:"
                yield from _indented(list(_lines(item)))
            else:
                yield f"{key}: {_scalar(item)}"
    else:
        for item in value:
            first, *rest = _lines(item)
            yield f"- {first}"
            yield from _indented(rest)


def _is_block(value: Any) -> bool:
    return isinstance(value, dict | list) and len(value) > 0


def _indented(lines: Sequence[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return _TO_ESCAPE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(clean(value), ensure_ascii=False))
    text = json.dumps(value, allow_nan=False)
    # YAML 1.1 takes 1e-05 for a text, and 1.0e-05 for a number.
    return re.sub(r"^(-?\d+)e", r"\1.0e", text)
