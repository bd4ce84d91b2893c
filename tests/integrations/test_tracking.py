"""What trackers are told: legal names that are never shared, every number, and one line where a tool is absent."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import auditkit
from auditkit import UsageError
from auditkit.integrations.request import completed
from auditkit.integrations.tracking import metric_name, tracked_metrics, tracked_parameters, tracked_tags
from auditkit.testing import LinearModel, toy_samples

# What MLflow takes on Windows, and Lightning's logger for it everywhere: less than MLflow takes elsewhere.
LEGAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. /-]*")
GATE = "noise.gaussian/clean_accuracy >= 50%"

names = st.text(max_size=12) | st.text("ab@/.- <", max_size=6) | st.text("a", min_size=80, max_size=300)
metrics = st.tuples(names, names)


@pytest.fixture(scope="module")
def audited():
    samples = toy_samples(20, network=LinearModel())
    return auditkit.audit(
        LinearModel(), (samples.images, samples.labels), checks=["noise.fgsm", "noise.gaussian"], gates=[GATE], seed=3
    )


def test_usual_names_are_read_as_they_are():
    assert metric_name("noise.pgd", "clean_accuracy", "auditkit") == "auditkit/noise.pgd/clean_accuracy"
    name = metric_name("noise.pgd@strong", "robust_accuracy@2/255", "nightly")
    assert name == "nightly/noise.pgd at strong/robust_accuracy at 2 of 255"


@given(metrics)
def test_every_name_is_one_that_trackers_take(metric):
    name = metric_name(*metric, "auditkit")
    assert LEGAL.fullmatch(name)
    assert name.count("/") == 2
    assert all(part and part[0] not in ". " and part[-1] != " " for part in name.split("/"))
    assert "  " not in name
    assert len(f"{name} high") <= 250


@given(metrics, metrics)
def test_two_metrics_never_share_a_name(one, other):
    ends = ("", " low", " high", " n")
    first, second = ({metric_name(*metric, "a") + end for end in ends} for metric in (one, other))
    assert (one == other) == bool(first & second)


@pytest.mark.parametrize("prefix", ["", "a/b", "a b", "<script>", "..", "x" * 100])
def test_a_prefix_that_is_no_name_is_refused(prefix):
    with pytest.raises(UsageError, match="a prefix is up to 45 letters, digits"):
        metric_name("noise.pgd", "clean_accuracy", prefix)


def test_every_metric_is_told_with_its_interval(audited):
    told = tracked_metrics(audited)
    assert told.pop("auditkit/passed") == 1
    estimates = [(check.key, *item) for check in audited.result.checks for item in check.metrics.items()]
    assert len(told) == 4 * len(estimates) > 4 * 6
    for check, metric, estimate in estimates:
        name = metric_name(check, metric, "auditkit")
        numbers = [told[name + end] for end in ("", " low", " high", " n")]
        assert numbers == [estimate.value, estimate.low, estimate.high, estimate.n]


def test_what_was_audited_and_how_it_ended_is_told(audited):
    told = tracked_parameters(audited, "p")
    assert told["p/seed"] == "3"
    assert told["p/preset"] == "standard"
    assert told["p/checks"] == "noise.fgsm, noise.gaussian"
    assert told["p/model_digest"] == audited.result.model.digest
    assert told["p/samples_fingerprint"] == audited.result.samples.fingerprint
    assert tracked_tags(audited, "p") == {"p/verdict": "pass", "p/outcome": "PASS: the requirement is met"}


def test_an_audit_in_doubt_is_not_told_as_passed(audited):
    doubtful = auditkit.AuditResult(
        audited.result.model_copy(update={"verdict": auditkit.Verdict.INCONCLUSIVE}), audited.table, audited.arrays
    )
    assert tracked_metrics(doubtful)["auditkit/passed"] == 0


def test_checks_that_are_not_named_are_those_of_the_gates():
    gates = [GATE, "noise.fgsm/robust_accuracy >= 0.1", "noise.gaussian/robust_accuracy >= 0.1"]
    assert completed({"gates": gates})["checks"] == ("noise.gaussian", "noise.fgsm")
    assert completed({"gates": GATE, "checks": "noise.*"})["checks"] == ("noise.*",)
    assert completed({"gates": GATE, "preset": "smoke"})["checks"] == ()


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        ({"gaets": [GATE]}, "there is no setting 'gaets'; did you mean gates?"),
        ({"gates": ["noise.gausian/clean_accuracy > 0"]}, "there is no check 'noise.gausian'; did you mean"),
        ({"gates": ["clean > 0.5"]}, 'a gate reads "check/metric >= number"'),
        ({"gates": [GATE], "checks": ["noise.fgsm"]}, "names a check that will not run"),
        ({"gates": [GATE], "options": {"noise.gaussian": {"darws": 2}}}, "no option 'darws'; did you mean draws?"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(wanted, line):
    with pytest.raises(UsageError) as caught:
        completed(wanted)
    assert line in str(caught.value)


@pytest.mark.parametrize("tool", ["mlflow", "lightning"])
def test_an_absent_tool_is_named_in_one_line(tool, monkeypatch):
    monkeypatch.setitem(sys.modules, tool, None)
    monkeypatch.delitem(sys.modules, f"auditkit.integrations.{tool}", raising=False)
    for name in [name for name in sys.modules if name.startswith(f"{tool}.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError) as caught:
        importlib.import_module(f"auditkit.integrations.{tool}")
    assert f'pip install "auditkit[{tool}]"' in str(caught.value)
    assert "\n" not in str(caught.value)


STUBS = """
import sys, types
for name in ("mlflow", "mlflow.entities", "mlflow.models", "mlflow.models.evaluation", "mlflow.models.evaluation.base"):
    sys.modules[name] = types.ModuleType(name)
for name in ("Metric", "Param", "RunTag"):
    setattr(sys.modules["mlflow.entities"], name, object)
for name in ("EvaluationResult", "ModelEvaluator"):
    setattr(sys.modules["mlflow.models.evaluation.base"], name, object)
sys.modules["mlflow"].MlflowClient = object
import auditkit.integrations.mlflow_evaluator
print(*sorted(sys.modules.keys() & {"torch", "onnx", "onnxruntime", "matplotlib", "scipy", "pydantic", "PIL"}))
"""


def test_the_evaluator_which_mlflow_always_imports_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", STUBS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
