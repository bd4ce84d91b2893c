"""An audit in MLflow: metrics, parameters, tags, and the report among the artifacts of a run."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

try:
    import mlflow
    from mlflow.entities import Metric, Param, RunTag
except ImportError as error:
    raise ImportError(f'auditkit.integrations.mlflow needs MLflow: pip install "auditkit[mlflow]" ({error})') from error

from auditkit.integrations.tracking import check_prefix, tracked_metrics, tracked_parameters, tracked_tags

if TYPE_CHECKING:
    from auditkit.auditing import AuditResult

__all__ = ["log_audit"]

# MLflow takes a thousand at a time; names are long, and a request may have a megabyte.
_AT_A_TIME = 500


def log_audit(audited: AuditResult, run_id: str | None = None, prefix: str = "auditkit") -> str:
    """Log an audit to a run, by default the active one (or else a new one), and return the id of the run.

    Metrics are `prefix/check/metric`, with their intervals beside them, and `prefix/passed`, 1 or 0. Parameters say
    what was audited and how, tags how it ended. The artifacts in the folder `prefix` are those of `auditkit run --out`,
    which `auditkit.load_result` reads: `report.html` in a single file, `result.json`, `samples.npz` and the others.

    MLflow never changes a parameter: another audit in the same run needs another prefix.

    Raises:
        UsageError: the prefix is not letters, digits, `_`, `.` and `-`.
    """
    check_prefix(prefix)
    if run_id is None and mlflow.active_run() is None:
        with mlflow.start_run() as run:
            return log_audit(audited, run.info.run_id, prefix)
    chosen: str = run_id if run_id is not None else mlflow.active_run().info.run_id
    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, 0) for name, value in tracked_metrics(audited, prefix).items()]
    client = mlflow.MlflowClient()
    # Parameters first: if they contradict those of the run, nothing has been written yet.
    client.log_batch(chosen, params=[Param(*item) for item in tracked_parameters(audited, prefix).items()])
    for some in _in_batches(metrics):
        client.log_batch(chosen, metrics=some)
    _log_files(client, audited, chosen, prefix)
    client.log_batch(chosen, tags=[RunTag(*item) for item in tracked_tags(audited, prefix).items()])
    return chosen


def _in_batches(metrics: Sequence[Metric]) -> Iterator[list[Metric]]:
    rest = iter(metrics)
    while some := list(islice(rest, _AT_A_TIME)):
        yield some


def _log_files(client: mlflow.MlflowClient, audited: AuditResult, run_id: str, folder: str) -> None:
    from auditkit.auditing import save

    with tempfile.TemporaryDirectory() as written:
        save(audited, Path(written))
        client.log_artifacts(run_id, written, artifact_path=folder)
