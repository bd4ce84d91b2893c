"""Audit a model: the whole way from a model and images to a judged result, from Python."""

from __future__ import annotations

import contextlib
import datetime
import io
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from torch import nn

from auditkit.archives import read_arrays
from auditkit.assemble import Arrays, assemble
from auditkit.attack import Attack
from auditkit.baseline import Measured, compare_with
from auditkit.budgets import budget_text
from auditkit.comparison import Comparison, compare
from auditkit.config import Settings, settings_from
from auditkit.engine import Hands, execute
from auditkit.errors import ExecutionError, UsageError, did_you_mean
from auditkit.executors.choose import apart, executor_for
from auditkit.executors.zygote import Zygote, zygote_for
from auditkit.export import check_export_folder, export_samples
from auditkit.gate import exit_code, judge
from auditkit.journal import UNFINISHED, Journal
from auditkit.noticed import noticed
from auditkit.plan import Planned, plan_checks
from auditkit.preparing import protected, set_up
from auditkit.progress import Progress, Silent
from auditkit.quoting import printable
from auditkit.registry import CHECKS, DETECTOR_CHECKS
from auditkit.report import junit_xml, markdown_summary, write_html
from auditkit.requirements import Gate, parse_requirement
from auditkit.result import SCHEMA, Result, Verdict
from auditkit.soundness import check_estimates, check_figures, check_pictures, check_settings, check_table
from auditkit.stats import Estimate
from auditkit.store import Store, write_atomically
from auditkit.until_decided import IMAGES_A_LOOK, check_decidable, stop_when_decided, stopped_note
from auditkit.workbench import Recipe, Workbench

__all__ = ["AuditResult", "audit", "gates_of", "load_result", "run_audit", "save"]


@dataclass(frozen=True)
class AuditResult:
    """What an audit found, with everything measured for each sample and the pictures of the report."""

    result: Result
    table: Arrays
    """One row a sample: `id`, `label`, and `check/column`."""
    arrays: Arrays
    """The pictures of the exhibits."""
    matches: Arrays = field(default_factory=dict)
    """Of a detector: how its detections fared, `CHECK/NAME/FIELD`, see `Matches`."""

    @property
    def measured(self) -> Measured:
        """What another audit is compared with."""
        return Measured(self.result, self.table)

    def compared_with(self, base: AuditResult) -> Comparison:
        """Return what moved since an earlier audit of the same images, image by image."""
        return compare(base.measured, self.measured)

    @property
    def verdict(self) -> Verdict:
        """What the gates say together."""
        return self.result.verdict

    @property
    def passed(self) -> bool:
        """Whether the audit may be taken as passed: exit code 0; warnings and waivers do not stand against it."""
        return exit_code(self.result) == 0

    def metric(self, name: str) -> Estimate:
        """Return a metric by its name, `check/metric`.

        Raises:
            KeyError: there is no such metric; the message names the closest one.
        """
        known = {f"{c.key}/{metric}": estimate for c in self.result.checks for metric, estimate in c.metrics.items()}
        if name not in known:
            raise KeyError(f"no metric {name}{did_you_mean(name, known)}")
        return known[name]

    def report(self, path: str | Path, *, templates: str | Path | None = None) -> Path:
        """Write the HTML report: one file if `path` ends in .html, else a folder; return where it starts.

        `templates` is a folder of templates and style sheets that go before those of auditkit.

        Raises:
            UsageError: there is no such folder, or something in it is broken.
        """
        return write_html(self.result, self.arrays, Path(path), Path(templates) if templates is not None else None)


def audit(
    model: str | Path | nn.Module,
    data: object,
    *,
    checks: Sequence[str] = (),
    gates: Sequence[str | Mapping[str, object]] = (),
    out: str | Path | None = None,
    export: str | Path | None = None,
    progress: Progress | None = None,
    start_over: bool = False,
    **settings: Any,
) -> AuditResult:
    """Audit `model` (a path, `module:factory` or a torch module) on `data` (a path, a data set, or (images, labels)).

    A gate is a text, or a dictionary with `require`, and perhaps `level` and `waiver`.

    `settings` are those of the command line and of `auditkit.toml` (`preset`, `options`, `seed`, `limit` ...). With
    `out`, everything is also written to that folder, and the same call goes on where an earlier one stopped, unless it
    is to `start_over`. With `export`, hard and attacked images are written to that folder.

    Raises:
        UsageError: a name, an option, the model or the data is not what it should be.
        ExecutionError: model and data do not work, or not together.
    """
    chosen = settings_from({**settings, "checks": tuple(checks), "gates": tuple(gates)})
    folder = Path(out) if out is not None else None
    exported = Path(export) if export is not None else None
    told = progress if progress is not None else Silent()
    with zygote_for(chosen) as zygote:
        return run_audit(Recipe(model, data, chosen), folder, told, exported, start_over=start_over, zygote=zygote)


def run_audit(
    recipe: Recipe,
    out: Path | None,
    progress: Progress,
    export: Path | None = None,
    *,
    start_over: bool = False,
    command: str | None = None,
    disclaimer: str | None = None,
    zygote: Zygote | None = None,
) -> AuditResult:
    """Run, judge and (with `out`) save an audit; with `export`, also write hard and attacked images there.

    What an earlier audit left unfinished in `out` is gone on with, or (with `start_over`) thrown away. Worker processes
    are forked of `zygote`; without one, each imports everything for itself.

    Raises:
        UsageError: as `audit`.
        ExecutionError: as `audit`.
    """
    settings = recipe.settings
    group = CHECKS if settings.boxes is None else DETECTOR_CHECKS
    plan, broken = plan_checks(settings.checks, settings.options, settings.preset, group)
    gates = gates_of(settings, plan)
    base = load_result(settings.baseline).measured if settings.baseline is not None else None
    if settings.until_decided:
        check_decidable(gates, plan)
        recipe = replace(recipe, settings=_with_small_shards(settings))
    if export is not None:
        check_export_folder(export)
    began = time.monotonic()
    started = datetime.datetime.now(datetime.UTC)
    with contextlib.ExitStack() as stack:
        folder = out if out is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(protected(recipe))
        bench = set_up(recipe)
        # Only now, so that a request that cannot be met leaves no folder behind.
        stack.enter_context(_alone_in(folder))
        if start_over:
            _forget(folder)
        store = Store(folder / "units")
        journal = Journal(folder, _subject(bench))
        stack.enter_context(_nothing_left_of_nothing(journal, store))
        notes = noticed(bench)
        enough = stop_when_decided(bench, plan, store, gates, base) if settings.until_decided else None
        with executor_for(bench, store, progress, zygote) as executor, apart(bench, store, progress) as alone:
            execution = execute(bench, plan, store, progress, journal, Hands(executor, alone), enough)
        volatile = {
            "date": started.isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 2),
            "command": command,
            "batch": settings.batch,
            "executor": settings.executor,
            "workers": settings.workers,
            "device": str(bench.model.device),
            "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            "versions": {name: version(name) for name in ("auditkit", "torch", "onnx", "numpy")},
        }
        if settings.until_decided:
            notes = (*notes, stopped_note(sum(len(s.ids) for s in execution.shards), len(bench.dataset)))
        result, table, arrays, matches = assemble(bench, plan, broken, execution, store, notes, volatile, disclaimer)
        judged = judge(result, gates, changes=compare_with(base, Measured(result, table)))
        audited = AuditResult(judged, table, arrays, matches)
        if out is not None:
            save(audited, out)
        journal.close()
        if export is not None:
            export_samples(bench, execution, store, export)
    return audited


def _with_small_shards(settings: Settings) -> Settings:
    """Return settings whose gates are looked at often enough.

    Raises:
        UsageError: there are worker processes, which do all shards at once.
    """
    for name, wanted in (("workers", 0), ("executor", "local")):
        if (got := getattr(settings, name)) != wanted:
            raise UsageError(f"until_decided looks at the gates every few images: {name} is {wanted}, not {got}")
    return settings.model_copy(update={"shard": min(settings.shard, IMAGES_A_LOOK)})


def gates_of(settings: Settings, plan: Sequence[Planned]) -> list[Gate]:
    """Return the gates, each on something that the plan will measure.

    Raises:
        UsageError: a gate is no gate, or on something else; or it needs a baseline, and there is none.
    """
    gates = [parse_requirement(given) for given in settings.gates]
    keys = [planned.key for planned in plan]
    for gate in gates:
        if gate.check not in keys:
            raise UsageError(f"the gate {gate} names a check that will not run{did_you_mean(gate.check, keys)}")
        _check_metric(gate, next(planned for planned in plan if planned.key == gate.check))
        if gate.change is not None and settings.baseline is None:
            raise UsageError(f"the gate {gate} needs a stored audit to compare with: --baseline RESULT")
    return gates


def _check_metric(gate: Gate, planned: Planned) -> None:
    metrics = [metric.name for metric in planned.check.spec.metrics]
    plain, at, budget = gate.metric.partition("@")
    if plain not in metrics:
        hint = did_you_mean(plain, metrics) or f"; it gives {', '.join(metrics)}"
        raise UsageError(f"{gate.check} gives no metric {plain!r}{hint}")
    if at and isinstance(planned.check, Attack):
        budgets = [budget_text(eps) for eps in planned.check.eps]
        if budget not in budgets:
            raise UsageError(
                f"the gate {gate} names a budget that will not run; {gate.check} runs {', '.join(budgets)} "
                f"(--set {gate.check}.eps=... changes that)"
            )


def _subject(bench: Workbench) -> dict[str, str]:
    """Return what must not change before an audit has ended; the images are told one by one."""
    info = bench.model.info
    return {
        "model": f"SHA-256 {info.digest}",
        "preprocessing": str(info.preprocessing),
        "number of images": str(len(bench.dataset)),
    }


@contextlib.contextmanager
def _nothing_left_of_nothing(journal: Journal, store: Store) -> Iterator[None]:
    """Close the journal of an audit that fails before there is anything to go on with."""
    try:
        yield
    except BaseException:
        if store.is_empty():
            journal.close()
        raise


def _forget(folder: Path) -> None:
    """Throw away what an audit left in its folder to go on with."""
    try:
        (folder / UNFINISHED).unlink(missing_ok=True)
        if (folder / "units").is_dir():
            shutil.rmtree(folder / "units")
    except OSError as error:
        raise ExecutionError(f"cannot clear {folder}: {error.strerror or error}") from error


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that two audits do not write into one folder.

    Raises:
        ExecutionError: another audit is at work there, or the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise ExecutionError(f"cannot write to {folder}: {error.strerror or error}") from error
    with file:
        try:
            import fcntl
        except ImportError:  # not a POSIX system: no lock to be had
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ExecutionError(
                f"another audit is at work in {folder}; wait for it, or choose another --out"
            ) from None
        yield


def save(audited: AuditResult, folder: Path) -> None:
    """Write result, table, exhibits, report and summaries into `folder`, each file completely or not at all."""
    write_atomically(folder / "samples.npz", _npz(audited.table))
    write_atomically(folder / "exhibits.npz", _npz(audited.arrays))
    if audited.matches:
        write_atomically(folder / "matches.npz", _npz(audited.matches))
    # Before all that is made from it: should one of these fail, it can be made again.
    write_atomically(folder / "result.json", audited.result.to_json().encode())
    write_atomically(folder / "junit.xml", junit_xml(audited.result).encode())
    write_atomically(folder / "summary.md", markdown_summary(audited.result).encode())
    audited.report(folder / "report.html")


def _npz(arrays: Arrays) -> memoryview:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getbuffer()


def load_result(path: str | Path) -> AuditResult:
    """Read a stored audit: its folder, or the `result.json` in it.

    Raises:
        UsageError: there is no result, or it is damaged or of another schema; or an audit has not ended in the folder.
    """
    file = Path(path)
    if (file / UNFINISHED).exists():
        raise UsageError(
            f"the audit in {file} has not ended: the same command goes on with it (an earlier result, if there is one, "
            f"is {file / 'result.json'})"
        )
    file = file / "result.json" if file.is_dir() else file
    try:
        result = Result.model_validate_json(file.read_bytes())
        names = ("samples.npz", "exhibits.npz", "matches.npz")
        table, arrays, matches = (_read_npz(file.with_name(name)) for name in names)
        check_settings(result)
        check_estimates(result)
        check_figures(result)
        check_table(result, table)
        check_pictures(result, arrays)
    except FileNotFoundError as error:
        raise UsageError(f"no stored audit: {error.filename} is missing") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        problem = printable(f"{where}: {first['msg']}")
        raise UsageError(f"{file} is not a readable result of auditkit ({problem})") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} is not a readable result of auditkit ({error})") from None
    if result.schema_version != SCHEMA:
        raise UsageError(f"{file} has schema {result.schema_version}; this auditkit reads schema {SCHEMA}")
    return AuditResult(result, table, arrays, matches)


def _read_npz(path: Path) -> Arrays:
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        return read_arrays(file)[0]
