"""An audit in MLflow, as a real server keeps it: what was logged is read back through the client."""

from __future__ import annotations

import http.client
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from onnx_graphs import model_of

import auditkit
from auditkit import ExecutionError, UsageError
from auditkit.integrations.tracking import tracked_metrics
from auditkit.testing import LinearModel, toy_samples

# Read when MLflow is imported, and by the server: nothing is sent anywhere.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
os.environ["GIT_PYTHON_REFRESH"] = "quiet"

mlflow = pytest.importorskip("mlflow", reason='MLflow is not here: pip install "auditkit[mlflow]"')
pytest.importorskip("pandas", reason='pandas is not here: pip install "auditkit[mlflow]"')
pytest.importorskip("sqlalchemy", reason="sqlalchemy is not here, which a server of MLflow needs")
pytest.importorskip("alembic", reason="alembic is not here, which a server of MLflow needs")
pytest.importorskip("flask_cors", reason="flask-cors is not here, which a server of MLflow needs")

with warnings.catch_warnings():
    # MLflow warns of type hints of its own, when its models are imported.
    warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType", UserWarning)
    import mlflow.pyfunc

    from auditkit.integrations.mlflow import log_audit
    from auditkit.integrations.mlflow_evaluator import AuditEvaluator

EXAMPLE = Path(__file__).parents[2] / "examples" / "mlflow_tracking"
SCRIPT = "<script>alert(1)</script>"
CHECKS = ("noise.gaussian", f"noise.gaussian@{SCRIPT}", "noise.fgsm")
MET = "noise.gaussian/clean_accuracy >= 50%"
MISSED = "noise.gaussian/clean_accuracy <= 50%"
SECONDS_TO_START = 120


@pytest.fixture(scope="module", autouse=True)
def starting(tmp_path_factory):
    """An `mlflow server` with an SQLite store, on the loopback interface only; it takes a while, so it starts first."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    store = ("--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", f"{folder}/artifacts")
    place = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    command = (sys.executable, "-m", "mlflow", "server", *store, *place)
    with (folder / "log").open("w") as log:
        # A session of its own: the server starts another process, and both are to be stopped.
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process, port, folder / "log"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def server(starting):
    """The address of the server, which answers."""
    process, port, log = starting
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        if is_healthy(port):
            return f"http://127.0.0.1:{port}"
        time.sleep(0.2)
    return pytest.fail(f"the server of MLflow did not start:\n{log.read_text()}")


def is_healthy(port):
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        asked.request("GET", "/health")
        return asked.getresponse().status == 200
    except OSError:
        return False
    finally:
        asked.close()


@pytest.fixture
def client(server):
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server)
    yield mlflow.MlflowClient()
    while mlflow.active_run() is not None:
        mlflow.end_run()
    mlflow.clear_active_model()
    mlflow.set_tracking_uri(before)


def images(count=40):
    samples = toy_samples(count, network=LinearModel(), wrong_every=count + 1)
    return samples.images, samples.labels


def audit(seed=0, gates=(MET,)):
    return auditkit.audit(
        LinearModel(), images(), checks=CHECKS, gates=gates, seed=seed, class_names=(SCRIPT, "b", "c")
    )


@pytest.fixture
def undrawn(monkeypatch):
    """To draw the figures of a report takes longer than to log it."""
    monkeypatch.setattr("auditkit.auditing.write_html", lambda result, arrays, path, *_: path.write_text("the report"))


@pytest.fixture(scope="module")
def audited():
    return audit()


def test_no_audit_comes_unasked():
    asked = AuditEvaluator.can_evaluate
    assert asked(model_type="classifier", evaluator_config={"gates": [MET]})
    assert asked(model_type="classifier", evaluator_config={"preset": "smoke"})
    assert not asked(model_type="classifier", evaluator_config={})
    assert not asked(model_type="classifier", evaluator_config={"log_model_explainability": True})
    assert not asked(model_type="regressor", evaluator_config={"gates": [MET]})


def test_mlflow_finds_the_evaluator():
    assert "auditkit" in mlflow.models.list_evaluators()


def test_an_audit_is_read_back_as_it_was_logged(audited, client, tmp_path):
    run_id = log_audit(audited)
    assert mlflow.active_run() is None
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == tracked_metrics(audited)
    assert run.data.metrics["auditkit/passed"] == 1
    estimate = audited.metric("noise.fgsm/robust_accuracy@8/255")
    for end, value in ("", estimate.value), (" low", estimate.low), (" high", estimate.high), (" n", 40):
        assert run.data.metrics[f"auditkit/noise.fgsm/robust_accuracy at 8 of 255{end}"] == value
    assert run.data.params["auditkit/model_digest"] == audited.result.model.digest
    assert run.data.params["auditkit/samples_fingerprint"] == audited.result.samples.fingerprint
    assert run.data.params["auditkit/checks"] == ", ".join(CHECKS)
    assert run.data.tags["auditkit/verdict"] == "pass"

    folder = Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path="auditkit", dst_path=str(tmp_path)))
    files = {"exhibits.npz", "junit.xml", "report.html", "result.json", "samples.npz", "summary.md"}
    assert {file.name for file in folder.iterdir()} == files
    written = audited.report(tmp_path / "written.html").read_bytes()
    assert (folder / "report.html").read_bytes() == written
    assert SCRIPT.encode() not in written
    assert auditkit.load_result(folder).result == audited.result


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_is_active_gets_the_audit_and_stays_active(audited, client):
    with mlflow.start_run() as run:
        assert log_audit(audited) == run.info.run_id
        assert mlflow.active_run().info.run_id == run.info.run_id
        mlflow.log_metric("after", 1)
    assert {"auditkit/passed", "after"} <= client.get_run(run.info.run_id).data.metrics.keys()


@pytest.mark.usefixtures("undrawn")
def test_another_audit_in_the_same_run_is_refused_before_it_spoils_the_first(audited, client):
    other = audit(seed=1, gates=[MISSED])
    run_id = log_audit(audited)
    with pytest.raises(mlflow.MlflowException, match="seed"):
        log_audit(other, run_id)
    assert client.get_run(run_id).data.metrics["auditkit/passed"] == 1
    log_audit(other, run_id, prefix="other")
    run = client.get_run(run_id)
    assert run.data.metrics["auditkit/passed"] == 1
    assert run.data.metrics["other/passed"] == 0
    assert run.data.tags["other/verdict"] == "fail"


def logged(kind):
    """Log a model, without the search for what it needs, which starts a process of its own; return its address."""
    pixels = images(2)[0].numpy()
    rows = np.zeros((2, 3), dtype=np.float32)
    about = {"name": "m", "pip_requirements": ["torch"], "signature": mlflow.models.infer_signature(pixels, rows)}
    if kind == "onnx":
        return mlflow.onnx.log_model(onnx_model(), onnx_execution_providers=["CPUExecutionProvider"], **about).model_uri
    return mlflow.pytorch.log_model(LinearModel(), serialization_format="pickle", **about).model_uri


def onnx_model():
    model = LinearModel()
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["scores"], transB=1),
    ]
    constants = {"weight": model.weight.detach().numpy(), "bias": model.bias.detach().numpy()}
    return model_of(nodes, constants, ["n", 3, 8, 8])


def evaluate(uri, data=None, targets=None, **config):
    pixels, labels = images()
    return mlflow.models.evaluate(
        uri,
        data=pixels.flatten(1).numpy() if data is None else data,
        targets=labels.numpy() if targets is None else targets,
        model_type="classifier",
        evaluators="auditkit",
        evaluator_config=config,
    )


@pytest.mark.parametrize("kind", ["pickle", "onnx"])
def test_the_evaluator_audits_a_logged_model(kind, client, tmp_path):
    with mlflow.start_run() as run:
        uri = logged(kind)
        found = evaluate(uri, gates=[MISSED])
    stored = client.get_run(run.info.run_id).data
    assert found.metrics == stored.metrics
    assert stored.metrics["auditkit/passed"] == 0
    assert stored.metrics["auditkit/noise.gaussian/clean_accuracy n"] == 40
    assert stored.tags["auditkit/model_uri"] == uri
    result = auditkit.Result.model_validate(found.artifacts["auditkit/result"].content)
    assert found.artifacts["auditkit/report"].content.startswith("<!DOCTYPE html>")
    assert [check.key for check in result.checks] == ["noise.gaussian"]
    if kind == "onnx":
        model = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path))) / "model.onnx"
        assert result.model.provider == "CPUExecutionProvider"
    else:
        model = LinearModel()
    direct = auditkit.audit(model, images(), checks=["noise.gaussian"], gates=[MISSED]).result
    assert (result.model, result.samples) == (direct.model, direct.samples)
    assert result.checks[0].metrics == direct.checks[0].metrics

    required = {"auditkit/passed": mlflow.models.MetricThreshold(threshold=1, greater_is_better=True)}
    with pytest.raises(mlflow.models.evaluation.validation.ModelValidationFailedException, match="auditkit/passed"):
        mlflow.validate_evaluation_results(required, found)
    if kind == "onnx":
        found = evaluate(uri, gates=[MET], prefix="again", image_shape=[3, 8, 8])
        mlflow.validate_evaluation_results({"again/passed": required["auditkit/passed"]}, found)


@pytest.mark.usefixtures("undrawn")
def test_what_cannot_be_audited_is_said_in_one_line(client, tmp_path):
    uri = logged("onnx")
    pixels, labels = images()
    mlflow.onnx.save_model(onnx_model(), tmp_path / "saved", pip_requirements=["torch"])
    wrong = {
        "did you mean gates": lambda: evaluate(uri, checks=["noise.fgsm"], gatse=[MET]),
        "names a check that will not run": lambda: evaluate(uri, gates=[MET], checks=["noise.fgsm"]),
        "wants rows of 48 pixels": lambda: evaluate(uri, gates=[MET], image_shape=[3, 4, 4]),
        "rows of 192 pixels .* got float32 .40, 10.": lambda: evaluate(
            uri, pixels.flatten(1).numpy()[:, :10], gates=[MET]
        ),
        "mlflow.pytorch or mlflow.onnx; got _Python": lambda: evaluate(lambda rows: rows, gates=[MET]),
        "image_shape is the shape .* got '3x8x8'": lambda: evaluate(uri, gates=[MET], image_shape="3x8x8"),
        "in a folder only": lambda: evaluate(str(tmp_path / "saved"), gates=[MET]),
        # Of two slips the prefix is named: it is looked at before any work is done.
        "a prefix is": lambda: evaluate(uri, gates=[MET], prefix="<script>", image_shape="3x8x8"),
        "labels have type float": lambda: evaluate(uri, targets=labels.numpy() / 2, gates=[MET]),
    }
    for line, call in wrong.items():
        with pytest.raises((UsageError, ExecutionError), match=line) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_shape_of_an_image_must_be_known(client):
    with mlflow.start_run():
        uri = mlflow.onnx.log_model(onnx_model(), name="m", pip_requirements=["torch"]).model_uri
        with pytest.raises(UsageError, match="signature does not tell"):
            evaluate(uri, gates=[MET])


@pytest.mark.skipif(not EXAMPLE.is_dir(), reason="the examples are not here")
def test_the_example_stops_a_model_that_fails_and_the_server_has_the_report(client, tmp_path, monkeypatch, capsys):
    shutil.copytree(EXAMPLE, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SystemExit, match="auditkit/passed"):
        runpy.run_path("evaluate.py", run_name="__main__")
    (run,) = mlflow.search_runs(experiment_names=["signs"], output_format="list")
    assert run.data.metrics["auditkit/passed"] == 0
    assert run.data.params["auditkit/model_format"] == "torch.export"
    assert run.data.tags["auditkit/outcome"] == "FAIL: 1 of 2 requirements is not met"
    assert run.data.tags["auditkit/outcome"] in capsys.readouterr().out
    assert "auditkit/report.html" in [file.path for file in client.list_artifacts(run.info.run_id, "auditkit")]
