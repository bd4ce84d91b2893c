"""`auditkit.audit` from end to end: the same result however it is computed, and nothing of the user's changed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import auditkit
from auditkit import registry
from auditkit.errors import ExecutionError, UsageError
from auditkit.models.loaded import digest_state
from auditkit.registry import Entry
from auditkit.testing import LinearModel, toy_samples

CHECKS = ("noise.pgd", "noise.gaussian", "explain.saliency")
OPTIONS = {"noise.pgd": {"steps": 4, "eps": "1/255, 2/255"}, "noise.gaussian": {"draws": 2, "eps": "32/255"}}
GATES = ("noise.pgd/robust_accuracy@1/255 >= 1%", "noise.gaussian/clean_accuracy >= 0.99")
PLAIN = {
    "checks": CHECKS,
    "gates": GATES,
    "options": OPTIONS,
    "preset": "smoke",
    "precision": "float32",
    "device": "cpu",
}
FACTORY = """
from auditkit.testing import LinearModel

def network():
    return LinearModel(classes=3, seed=1)
"""
# A package of checks that fall in native code, which nothing in Python can catch.
CRASHING = """
import os
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from auditkit import Findings, Metric, Spec

@dataclass(frozen=True)
class Crash:
    spec: ClassVar[Spec] = Spec("made.crash", "t", "w", (Metric("ones", "one", "t"),))

    def run(self, model, samples, ctx):
        os._exit(9)
"""


def network():
    return LinearModel(classes=3, seed=1)


@pytest.fixture(scope="module")
def samples():
    return toy_samples(21, seed=3, network=network())


@pytest.fixture(scope="module")
def data(samples):
    return samples.images.permute(0, 2, 3, 1).numpy(), samples.labels.numpy()


@pytest.fixture
def files(tmp_path, data):
    """A model and images by path, as worker processes need them."""
    (tmp_path / "net.py").write_text(FACTORY)
    np.savez(tmp_path / "data.npz", images=data[0], labels=data[1])
    return f"{tmp_path / 'net.py'}:network", tmp_path / "data.npz"


def lasting(text):
    """Return a stored result without what may differ from run to run."""
    content = json.loads(text)
    del content["volatile"]
    for check in content["checks"]:
        del check["seconds"]
    return content


def written(folder):
    return lasting((folder / "result.json").read_text())


def same_tables(one, other):
    assert one.keys() == other.keys()
    for name, column in one.items():
        np.testing.assert_array_equal(column, other[name], err_msg=name)


def test_shards_and_batches_change_nothing(data):
    wanted = auditkit.audit(network(), data, **PLAIN)
    assert wanted.verdict is auditkit.Verdict.FAIL
    assert wanted.metric("noise.pgd/attack_success_rate").value > 0
    for shard, batch in [(1, 128), (4, 3), (20, 1), (9, 64)]:
        got = auditkit.audit(network(), data, shard=shard, batch=batch, **PLAIN)
        assert lasting(got.result.to_json()) == lasting(wanted.result.to_json())
        same_tables(wanted.table, got.table)
        same_tables(wanted.arrays, got.arrays)


def test_what_was_written_reads_back_the_same(tmp_path, data):
    audited = auditkit.audit(network(), data, out=tmp_path, **PLAIN)
    stored = auditkit.load_result(tmp_path)
    assert stored.result == audited.result
    same_tables(stored.table, audited.table)
    same_tables(stored.arrays, audited.arrays)
    assert {"result.json", "report.html", "junit.xml", "summary.md", "samples.npz", "exhibits.npz"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_samples_in_another_order_give_the_same_metrics(data):
    order = np.random.default_rng(0).permutation(21)
    ids = [f"s{row}" for row in range(21)]
    results = []
    for rows in (np.arange(21), order):
        from auditkit.samples.memory import open_arrays
        from auditkit.samples.stream import View

        opened = open_arrays(data[0][rows], data[1][rows], View(), ids=[ids[row] for row in rows])
        results.append(auditkit.audit(network(), opened, shard=8, **PLAIN).result)
    first, second = results
    assert [check.metrics for check in first.checks] == [check.metrics for check in second.checks]
    assert [check.exhibits for check in first.checks] == [check.exhibits for check in second.checks]


def test_another_seed_draws_other_noise(data):
    one, same, other = (auditkit.audit(network(), data, **PLAIN, seed=seed) for seed in (0, 0, 1))
    name = "noise.pgd/distance"
    np.testing.assert_array_equal(one.table[name], same.table[name])
    assert not np.array_equal(one.table[name], other.table[name], equal_nan=True)


def test_two_worker_processes_find_the_same_and_survive_a_check_that_kills_its_process(tmp_path, files, monkeypatch):
    """Spawned processes import torch for seconds each, so this is one test."""
    model, data = files
    package = tmp_path / "packages"
    package.mkdir()
    (package / "made_crash.py").write_text(CRASHING)
    monkeypatch.syspath_prepend(package)
    monkeypatch.setenv("PYTHONPATH", str(package))
    crash = Entry("made.crash", "made 1", EntryPoint("made.crash", "made_crash:Crash", registry.CHECKS))
    known = registry.entries()
    for module in ("auditkit.plan", "auditkit.registry"):
        monkeypatch.setattr(f"{module}.entries", lambda group=registry.CHECKS: (*known, crash))
    options = {**PLAIN, "gates": GATES[:1], "options": {"noise.pgd": OPTIONS["noise.pgd"]}}
    alone = auditkit.audit(model, data, out=tmp_path / "0", **{**options, "checks": ("noise.pgd",)})
    workers = {**options, "checks": ("made.crash", "noise.pgd"), "workers": 2}
    beside = auditkit.audit(model, data, out=tmp_path / "2", **workers)
    broken = beside.result.check("made.crash")
    assert broken.status == "failed"
    assert broken.reason == "its process ended by itself (os._exit or the like, exit code 9), twice"
    wanted, got = written(tmp_path / "0"), written(tmp_path / "2")
    got["checks"] = [check for check in got["checks"] if check["key"] != "made.crash"]
    assert got == wanted
    same_tables(alone.table, beside.table)
    units = sorted(path.name for path in (tmp_path / "0" / "units").iterdir())
    assert sorted(path.name for path in (tmp_path / "2" / "units").iterdir()) == units


def test_workers_refuse_what_cannot_be_sent_to_them(data):
    with pytest.raises(UsageError, match="worker processes need a model and data given by path"):
        auditkit.audit(network(), data, workers=1, **PLAIN)


SCRIPT = """
import sys, time
import auditkit
from auditkit.models.base import Model

if sys.argv[1] == "slow":
    quick = Model.logits
    Model.logits = lambda self, images: (time.sleep(0.02), quick(self, images))[1]
auditkit.audit(
    {model!r}, {data!r}, out={out!r}, checks=("noise.uniform",), shard=3, precision="float32", device="cpu",
    options={{"noise.uniform": {{"draws": 30, "eps": "1/255, 2/255"}}}}, gates=["noise.uniform/robust_accuracy > 0.2"],
)
"""


def test_an_audit_that_was_killed_goes_on_where_it_stopped(tmp_path, files, monkeypatch):
    model, data = files

    def script(out):
        return textwrap.dedent(SCRIPT).format(model=model, data=str(data), out=str(out))

    units = tmp_path / "killed" / "units"
    process = subprocess.Popen([sys.executable, "-c", script(tmp_path / "killed"), "slow"])
    try:
        deadline = time.monotonic() + 60
        while not list(units.glob("*.npz")) and time.monotonic() < deadline:
            assert process.poll() is None, "the audit ended before it could be killed"
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "killed" / "result.json").exists()
    before = {path: path.stat().st_mtime_ns for path in units.glob("*.npz")}
    assert 0 < len(before) < 7
    monkeypatch.setattr(sys, "argv", ["script", "fast"])
    exec(script(tmp_path / "killed"), {})  # noqa: S102 (the script of this test)
    exec(script(tmp_path / "whole"), {})  # noqa: S102
    assert len(list(units.glob("*.npz"))) == 7
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert written(tmp_path / "killed") == written(tmp_path / "whole")
    names = [sorted(path.name for path in (tmp_path / run / "units").glob("*.npz")) for run in ("killed", "whole")]
    assert names[0] == names[1]


class Rich(nn.Module):
    """A network with everything that an audit could disturb."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.body = nn.Linear(4 * 36, 3)
        self.norm.running_mean.uniform_(-1, 1)
        self.conv.weight.requires_grad_(False)
        self.seen = []
        self.body.register_forward_hook(lambda module, inputs, output: self.seen.append(len(output)))
        self.train()
        self.norm.eval()

    def forward(self, images):
        return self.body(self.drop(torch.relu(self.norm(self.conv(images)))).flatten(1))


def state_of(network):
    return (
        digest_state(network),
        [(module.training, len(module._forward_hooks)) for module in network.modules()],
        [(parameter.requires_grad, parameter.grad) for parameter in network.parameters()],
        {name: id(tensor) for name, tensor in network.state_dict(keep_vars=True).items()},
    )


def random_states():
    return torch.get_rng_state().tolist(), str(np.random.get_state(legacy=False))  # noqa: NPY002


def boom(self, model, samples, ctx):
    raise RuntimeError("boom")


@pytest.mark.parametrize("fault", ["none", "check", "audit"])
def test_the_users_model_and_random_numbers_are_as_before(data, monkeypatch, fault):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rich = Rich()
    before, numbers = state_of(rich), random_states()
    checks = ("noise.pgd", "sanity.gradients", "sanity.model", "explain.saliency")
    options = {**PLAIN, "gates": (), "checks": checks, "options": {}}
    if fault == "audit":
        monkeypatch.setattr("auditkit.auditing.execute", lambda *_: boom(*[None] * 4))
        with pytest.raises(RuntimeError, match="boom"):
            auditkit.audit(rich, data, **options)
    else:
        if fault == "check":
            monkeypatch.setattr("auditkit_plugins.saliency_map.Saliency.run", boom)
        audited = auditkit.audit(rich, data, **options)
        assert audited.result.check("explain.saliency").status == ("failed" if fault == "check" else "done")
        assert audited.passed is (fault == "none")
        assert audited.result.check("noise.pgd").status == "done"
        assert not [flag for flag in audited.result.flags if flag.id == "sanity.random"]
    assert rich.seen, "the audit never asked this very network"
    assert state_of(rich) == before
    assert random_states() == numbers
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"gates": ("noise.pdg/robust_accuracy >= 0",)}, "did you mean noise.pgd"),
        ({"gates": ("noise.pgd/robust_acuracy >= 0",)}, "did you mean robust_accuracy"),
        ({"gates": ("noise.pgd >= 0",)}, "a gate reads"),
        ({"checks": ("noise.pdg",)}, "did you mean noise.pgd"),
        ({"checks": ("nothing.*",)}, "no check matches"),
        ({"checks": ("[*" * 10**5,)}, "a name has at most 200 characters"),
        ({"options": {"noise.pgd": {"stepps": 3}}}, "did you mean steps"),
        ({"options": {"noise.fgsm": {"eps": 1}}}, "not among the chosen checks"),
        ({"options": {"noise.pgd": {"steps": 0}}}, "noise.pgd.steps = 0: "),
        ({"options": {"noise.pgd": {"eps": "8/0"}}}, "noise.pgd.eps = '8/0': a budget is"),
        ({"bacth": 3}, "did you mean batch"),
        ({"preset": "fast"}, "preset"),
    ],
)
def test_a_slip_is_found_before_the_model_is_touched(data, change, words):
    class Untouched(LinearModel):
        def forward(self, images):
            raise AssertionError("the model was asked")

    with pytest.raises(UsageError, match=words):
        auditkit.audit(Untouched(), data, **{**PLAIN, "gates": (), "options": {}, **change})


def test_two_audits_do_not_write_into_one_folder(tmp_path, data):
    class Nested(auditkit.progress.Silent):
        def start(self, total):
            with pytest.raises(ExecutionError, match="another audit is at work in"):
                auditkit.audit(network(), data, out=tmp_path, **PLAIN)
            self.tried = True

    progress = Nested()
    auditkit.audit(network(), data, out=tmp_path, progress=progress, **PLAIN)
    assert progress.tried
    auditkit.audit(network(), data, out=tmp_path, **PLAIN)


def test_a_broken_plugin_spoils_only_itself_unless_it_was_asked_for(data, monkeypatch):
    broken = Entry("made.broken", "made 1", EntryPoint("made.broken", "no_such_module:X", registry.CHECKS))
    known = registry.entries()
    for module in ("auditkit.plan", "auditkit.registry"):
        monkeypatch.setattr(f"{module}.entries", lambda group=registry.CHECKS: (*known, broken))
    audited = auditkit.audit(
        network(), data, **{**PLAIN, "gates": (), "checks": ("noise.fgsm", "made.*"), "options": {}}
    )
    assert audited.result.check("noise.fgsm").status == "done"
    assert audited.result.check("made.broken").status == "failed"
    assert "no_such_module" in audited.result.check("made.broken").reason
    assert not audited.passed
    with pytest.raises(ExecutionError, match=r"made\.broken of made 1 cannot be imported"):
        auditkit.audit(network(), data, checks=("made.broken",))


def test_a_label_that_the_model_does_not_have_is_refused_with_the_remedy(data):
    with pytest.raises(ExecutionError, match=r"label 3, but LinearModel has 3 outputs.*--label-offset -1"):
        auditkit.audit(network(), (data[0], data[1] + 1), checks=("noise.fgsm",))
    shifted = auditkit.audit(network(), (data[0], data[1] + 1), checks=("noise.fgsm",), label_offset=-1)
    assert shifted.metric("noise.fgsm/clean_accuracy").value == 19 / 21


def test_a_result_that_is_not_there_or_damaged_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no stored audit"):
        auditkit.load_result(tmp_path)
    Path(tmp_path / "result.json").write_text("{}")
    with pytest.raises(UsageError, match="not a readable result"):
        auditkit.load_result(tmp_path)
