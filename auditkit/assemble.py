"""From stored units to the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from auditkit.anytime import anytime_share
from auditkit.check import Exhibit, Summarising
from auditkit.engine import Execution, why_skipped
from auditkit.errors import ExecutionError
from auditkit.findings import Share, curves, flags, maps, metric_columns, metrics
from auditkit.gathering import Gathering
from auditkit.objects.detector import Detector
from auditkit.plan import Planned
from auditkit.precision import Matches
from auditkit.result import (
    CheckRecord,
    ExhibitRecord,
    FlagRecord,
    MarkRecord,
    ModelRecord,
    NoteRecord,
    PanelRecord,
    ProfileRecord,
    Result,
    SamplesRecord,
    TableRecord,
    Verdict,
)
from auditkit.stats import CONFIDENCE, proportion
from auditkit.store import Store
from auditkit.summaries import class_estimates, class_table, concluded, grid_tables, precision_table
from auditkit.threat import ThreatModel
from auditkit.workbench import Workbench

__all__ = ["Arrays", "assemble"]

Arrays = dict[str, npt.NDArray[Any]]

# Of a sample's sha256 in the table: enough to tell that two audits saw the same image.
_DIGITS = 16


def assemble(
    bench: Workbench,
    plan: Sequence[Planned],
    broken: Sequence[tuple[str, str, str]],
    execution: Execution,
    store: Store,
    notes: Sequence[NoteRecord],
    volatile: Mapping[str, Any],
    disclaimer: str | None,
    gathered: dict[str, Gathering] | None = None,
) -> tuple[Result, Arrays, Arrays, Arrays]:
    """Return the result (without gates), the per-sample table, the arrays of the exhibits, and those of matches.

    Units are read one at a time. `gathered` holds what an earlier call for the first of these shards read, by check;
    then only the others are read, and added to it.
    """
    table: Arrays = {
        "id": np.array([name for shard in execution.shards for name in shard.ids]),
        "label": np.array([label for shard in execution.shards for label in shard.labels], dtype=np.int64),
        "digest": np.array([digest[:_DIGITS] for shard in execution.shards for digest in shard.digests]),
    }
    arrays: Arrays = {}
    matched: Arrays = {}
    checks: list[CheckRecord] = []
    raised: list[FlagRecord] = []
    for planned in plan:
        gathering = Gathering() if gathered is None else gathered.setdefault(planned.key, Gathering())
        record, raised_here = _check(bench, planned, execution, store, gathering, table, arrays, matched)
        checks.append(record)
        raised += raised_here
    checks += [_broken(*entry) for entry in broken]
    result = Result(
        model=_model(bench),
        samples=_samples(bench, execution),
        verdict=Verdict.NONE,
        gates=(),
        checks=tuple(checks),
        flags=tuple(raised),
        notes=tuple(notes),
        settings=_settings(bench),
        disclaimer=disclaimer,
        volatile=dict(volatile),
    )
    return result, table, arrays, matched


def _check(
    bench: Workbench,
    planned: Planned,
    execution: Execution,
    store: Store,
    gathering: Gathering,
    table: Arrays,
    arrays: Arrays,
    matched: Arrays,
) -> tuple[CheckRecord, tuple[FlagRecord, ...]]:
    spec = planned.check.spec
    lacking = why_skipped(bench, planned)
    failure = execution.failures.get(planned.key)
    models: Sequence[ThreatModel] = getattr(planned.check, "threat_models", ())
    record = CheckRecord(
        key=planned.key,
        id=spec.id,
        version=spec.version,
        title=spec.title,
        why=spec.why,
        distribution=planned.distribution,
        references=spec.references,
        needs=tuple(sorted(need.value for need in spec.needs)),
        status="skipped" if lacking else "failed" if failure else "done",
        reason=lacking or failure,
        options=dict(planned.options),
        threat_model=models[-1].describe() if models else None,
        norm=models[-1].norm if models else None,
    )
    if record.status != "done":
        return record, ()
    digests = [digest for (key, _), digest in sorted(execution.units.items()) if key == planned.key]
    if not digests:
        reason = "all images fell to the training half: none is left to judge it on"
        return record.model_copy(update={"status": "failed", "reason": reason}), ()
    for digest in digests[gathering.units :]:
        unit, exhibits = store.get_numbers(digest)
        try:
            gathering.add(unit, exhibits)
        except ExecutionError as error:
            return record.model_copy(update={"status": "failed", "reason": str(error)}), ()
    try:
        tables, profiles = _conclusion(planned, gathering)
    except ExecutionError as error:
        return record.model_copy(update={"status": "failed", "reason": str(error)}), ()
    columns, others, matches = gathering.columns(), gathering.others, gathering.matches()
    # Whoever stops to look may stop too early: then an interval must hold at every look.
    share: Share = anytime_share if bench.recipe.settings.until_decided else proportion
    estimates, titles = metrics(spec, columns, others, share, matches)
    judged = _judged(bench, planned, execution)
    classes = class_estimates(spec, columns, table["label"][judged], bench.class_names, others, share)
    by_class = class_table(spec, classes) or precision_table(spec, matches, int(judged.sum()), bench.class_names)
    matched |= _flat(planned.key, matches)
    table |= {f"{planned.key}/{name}": _spread(column, judged) for name, column in columns.items()}
    if not judged.all():
        table[f"{planned.key}/held_out"] = judged
    queries: dict[str, float] = {}
    for direction in ("forward", "backward"):
        passes = gathering.passes(f"{direction}s")
        if passes is not None:
            table[f"{planned.key}/{direction}s"] = _spread(passes, judged)
            queries[direction] = float(passes.mean())
    _, height, width = next(shard.shape for shard in execution.shards if shard.ids)
    shown = [*maps(spec, columns, height, width), *map(store.get_exhibit, gathering.exhibits)]
    record = record.model_copy(
        update={
            "metrics": estimates,
            "metric_titles": titles,
            "metric_columns": metric_columns(spec, columns, others),
            "curves": curves(spec, estimates, columns, others, share),
            "tables": (*grid_tables(spec, estimates), *((by_class,) if by_class is not None else ()), *tables),
            "tabulated": tuple(name for grid in spec.grids for name in grid.metrics if name in estimates),
            "profiles": profiles,
            "queries": queries,
            "seconds": round(gathering.seconds, 3),
            "exhibits": tuple(_exhibit(planned.key, at, exhibit, arrays) for at, exhibit in enumerate(shown)),
        }
    )
    return record, flags(spec, planned.key, estimates, classes.estimates)


def _flat(key: str, matches: Mapping[str, Matches]) -> Arrays:
    """Return the arrays of a check's matches, each called `CHECK/NAME/FIELD`."""
    return {
        f"{key}/{name}/{field.name}": getattr(each, field.name)
        for name, each in matches.items()
        for field in fields(Matches)
    }


def _conclusion(planned: Planned, gathering: Gathering) -> tuple[tuple[TableRecord, ...], tuple[ProfileRecord, ...]]:
    """Return what the check makes of its tallies; nothing where it has none.

    Raises:
        ExecutionError: the check fails on them.
    """
    tallies = gathering.tallies()
    if not tallies:
        return (), ()
    try:
        return concluded(cast(Summarising, planned.check).conclude(tallies))
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        raise ExecutionError(f"{type(error).__name__} while concluding: {text}") from error


def _judged(bench: Workbench, planned: Planned, execution: Execution) -> npt.NDArray[np.bool_]:
    """Return which of all samples the check was judged on."""
    ids = [name for shard in execution.shards for name in shard.ids]
    return bench.held_out(ids) if planned.check.spec.scope == "dataset" else np.ones(len(ids), dtype=bool)


def _spread(column: npt.NDArray[Any], judged: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Give the samples that were not judged a row, too: NaN, zero or false."""
    if judged.all():
        return column
    full = np.full(len(judged), np.nan if column.dtype.kind == "f" else 0, dtype=column.dtype)
    full[judged] = column
    return full


def _exhibit(key: str, at: int, exhibit: Exhibit, arrays: Arrays) -> ExhibitRecord:
    panels = []
    for which, panel in enumerate(exhibit.panels):
        name = f"{key}/{at}/{which}"
        arrays[name] = panel.array
        marks = tuple(MarkRecord(**asdict(mark)) for mark in panel.marks)
        panels.append(PanelRecord(title=panel.title, kind=panel.kind, array=name, marks=marks))
    return ExhibitRecord(sample=exhibit.sample, caption=exhibit.caption, score=exhibit.score, panels=tuple(panels))


def _broken(check_id: str, distribution: str, reason: str) -> CheckRecord:
    return CheckRecord(
        key=check_id,
        id=check_id,
        version=0,
        title=check_id,
        why="",
        distribution=distribution,
        references=(),
        status="failed",
        reason=reason,
        options={},
    )


def _model(bench: Workbench) -> ModelRecord:
    model, info = bench.model, bench.model.info
    return ModelRecord(
        name=info.name,
        format=info.format,
        digest=info.digest,
        task="detection" if isinstance(model, Detector) else "classification",
        classes=info.classes,
        input="x".join("any" if size is None else str(size) for size in info.input_shape),
        provider=info.provider,
        gradients=model.gradient_source if model.exact is not None else f"none: {model.no_gradients}",
        search_copy=bench.search.description if bench.search is not None else "none: the deployed model is asked",
        preprocessing=info.preprocessing,
    )


def _samples(bench: Workbench, execution: Execution) -> SamplesRecord:
    skipped = {item.id: item.reason for shard in execution.shards for item in shard.skipped}
    return SamplesRecord(
        source=bench.dataset.source,
        n=sum(len(shard.ids) for shard in execution.shards),
        of=len(bench.dataset),
        skipped=skipped,
        fingerprint=execution.fingerprint,
        shape=next(shard.shape for shard in execution.shards if shard.ids),
        class_names=bench.class_names,
        outside=_outside(bench, execution),
    )


def _outside(bench: Workbench, execution: Execution) -> str | None:
    """Return what the second data set is, and what of it was used."""
    if bench.outside is None:
        return None
    n = len(bench.outside)
    there = f"{bench.outside.source}: {n} image{'s' if n > 1 else ''}"
    if execution.outside is None:
        return f"{there}, at which no check looked"
    readable, digest = execution.outside
    return f"{there}, of which {readable} can be read; fingerprint {digest}"


def _settings(bench: Workbench) -> dict[str, Any]:
    settings = bench.recipe.settings
    return {
        "seed": settings.seed,
        "preset": settings.preset,
        "limit": settings.limit,
        "confidence": CONFIDENCE,
        "until_decided": settings.until_decided,
        "label_offset": settings.label_offset,
        "rows_independent": bench.model.batching.fixed is None
        and (bench.search is None or bench.search.batching.fixed is None),
    }
