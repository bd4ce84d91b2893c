"""The callback for Lightning, in real fits: gates, loggers, files, and a module that is left as it was."""

from __future__ import annotations

import csv
import random
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import auditkit
from auditkit import ExitCode, UsageError
from auditkit.integrations.tracking import tracked_metrics
from auditkit.testing import toy_samples

pytest.importorskip("lightning.pytorch", reason='Lightning is not here: pip install "auditkit[lightning]"')

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import FSDPStrategy

from auditkit.integrations.lightning import AuditCallback, AuditFailed

EXAMPLE = Path(__file__).parents[2] / "examples" / "lightning_callback"
MET = "noise.fgsm/clean_accuracy >= 10%"
MISSED = "noise.fgsm/clean_accuracy <= 1%"
DOUBTFUL = "noise.fgsm/clean_accuracy >= 90%"

pytestmark = [
    # Lightning asks torch for what torch has deprecated since.
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
    # It also advises on speed: more workers for a data set of 40 images.
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


@pytest.fixture
def undrawn(monkeypatch):
    """To draw the figures of a report takes longer than a fit."""
    monkeypatch.setattr("auditkit.auditing.write_html", lambda result, arrays, path, *_: path.write_text("the report"))


def images(count=40):
    """Return images whose class anyone can see: the brightest channel."""
    samples = toy_samples(count)
    labels = torch.arange(count) % 3
    return samples.images * 0.5 + 0.5 * nn.functional.one_hot(labels, 3)[:, :, None, None], labels


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        layers = (nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(144, 3))
        self.network = nn.Sequential(*layers)

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, _):
        x, labels = batch
        loss = nn.functional.cross_entropy(self(x), labels)
        self.log("loss", loss)
        self.last_loss = loss  # a module may keep such things; it can then not be copied
        return loss

    def test_step(self, batch):
        self.log("tested", 1.0)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Snapshot(Callback):
    """Everything that an audit must leave alone, as it is when this callback has its turn."""

    def take(self, module):
        self.weights = {name: value.clone() for name, value in module.state_dict().items()}
        self.gradients = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
        self.needed = [(p.requires_grad, p.device) for p in module.parameters()]
        self.modes = [part.training for part in module.modules()]
        self.hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()]
        self.randomness = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        self.grad_mode = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def on_fit_end(self, trainer, pl_module):
        self.take(pl_module)

    def on_test_end(self, trainer, pl_module):
        self.take(pl_module)

    def assert_same(self, other):
        for name in ("needed", "modes", "hooks", "randomness", "grad_mode"):
            assert getattr(self, name) == getattr(other, name), name
        assert self.weights.keys() == other.weights.keys()
        assert all(torch.equal(value, other.weights[name]) for name, value in self.weights.items())
        assert all(
            (a is None and b is None) or torch.equal(a, b) for a, b in zip(self.gradients, other.gradients, strict=True)
        )


def train(folder, *callbacks, module=None, **more):
    """Fit for two epochs; return the trainer and the module."""
    trainer = Trainer(
        max_epochs=2,
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=folder,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **{"logger": CSVLogger(folder), **more},
    )
    module = module or Module()
    trainer.fit(module, loader())
    return trainer, module


def loader():
    return DataLoader(TensorDataset(*images()), batch_size=10)


def logged(trainer):
    """Return what the logger wrote, as numbers by name; of several rows the last that has one."""
    with Path(trainer.log_dir, "metrics.csv").open(newline="") as file:
        return {name: float(value) for row in csv.DictReader(file) for name, value in row.items() if value}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("network", [None, "network", lambda module: module.network])
def test_a_fit_whose_gates_are_met_ends_with_a_report_and_an_untouched_module(network, tmp_path):
    before, after = Snapshot(), Snapshot()
    callback = AuditCallback(images(), gates=[MET], network=network)
    trainer, module = train(tmp_path, before, callback, after)
    after.assert_same(before)
    assert all(part.training for part in module.modules())

    audited = callback.audited
    assert audited.verdict is auditkit.Verdict.PASS
    assert audited.result.model.name == ("Module" if network is None else "Sequential")
    written = logged(trainer)
    assert tracked_metrics(audited).items() <= written.items()
    assert written["auditkit/passed"] == 1
    assert "loss" in written
    folder = Path(trainer.log_dir, "auditkit")
    assert auditkit.load_result(folder).result == audited.result
    assert (folder / "report.html").is_file()


@pytest.mark.usefixtures("undrawn")
def test_the_part_that_is_named_is_audited_as_if_it_were_alone(tmp_path):
    callback = AuditCallback(images(), gates=[MET], network="network", seed=5, device="auto")
    _, module = train(tmp_path, callback)
    alone = auditkit.audit(module.network, images(), checks=["noise.fgsm"], gates=[MET], seed=5).result
    assert (callback.audited.result.model, callback.audited.result.samples) == (alone.model, alone.samples)
    assert callback.audited.result.checks[0].metrics == alone.checks[0].metrics


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("gate", [MISSED, DOUBTFUL])
def test_a_gate_that_is_not_met_fails_the_program_once_all_is_written(gate, tmp_path):
    callback = AuditCallback(images(6), gates=[MET, gate], out=tmp_path / "evidence", prefix="held_out")
    with pytest.raises(AuditFailed) as caught:
        train(tmp_path, callback, logger=(logger := CSVLogger(tmp_path)))
    assert caught.value.exit_code == ExitCode.FAIL
    first, reason, report = str(caught.value).splitlines()
    assert first == auditkit_sentence(callback.audited)
    assert reason.startswith(f"{'fail' if gate == MISSED else 'inconclusive'}: {gate}: ")
    assert report == f"report: {tmp_path / 'evidence' / 'report.html'}"
    assert (tmp_path / "evidence" / "report.html").is_file()
    assert logged(logger)["held_out/passed"] == 0


def auditkit_sentence(audited):
    from auditkit.report.text import verdict_sentence

    return verdict_sentence(audited.result)


@pytest.mark.usefixtures("undrawn")
def test_a_gate_that_is_not_met_can_be_left_to_the_caller(tmp_path):
    callback = AuditCallback(images(), gates=[MISSED], fail=False)
    train(tmp_path, callback, logger=False)
    assert not callback.audited.passed
    assert (tmp_path / "auditkit" / "report.html").is_file(), "without a logger, in default_root_dir"


@pytest.mark.usefixtures("undrawn")
def test_a_test_ends_with_gradients_although_lightning_has_switched_them_off(tmp_path):
    before, after = Snapshot(), Snapshot()
    callback = AuditCallback(images(), gates=[MET], checks=["noise.fgsm"], when="test_end", network="network")
    trainer, module = train(tmp_path, before, callback, after)
    assert callback.audited is None
    trainer.test(module, loader(), verbose=False)
    after.assert_same(before)
    assert after.grad_mode == (False, True)
    (check,) = callback.audited.result.checks
    assert check.status == "done"
    alone = auditkit.audit(module.network, images(), checks=["noise.fgsm"])
    assert check.metrics == alone.result.checks[0].metrics


def test_a_trial_run_is_not_audited_and_says_so(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("auditkit.integrations.lightning.rank_zero_info", said.append)
    callback = AuditCallback(images(), gates=[MISSED])
    train(tmp_path, callback, fast_dev_run=True)
    assert callback.audited is None
    assert said == ["auditkit: no audit in a fast_dev_run"]
    assert not list(tmp_path.rglob("report.html"))


def test_what_cannot_be_is_said_before_the_training():
    with pytest.raises(UsageError, match=r"did you mean noise\.fgsm"):
        AuditCallback(images(), gates=["noise.fgms/clean_accuracy >= 0.5"])
    with pytest.raises(UsageError, match="did you mean limit"):
        AuditCallback(images(), gates=[MET], limt=3)
    with pytest.raises(UsageError, match="when is fit_end or test_end; got 'fit'"):
        AuditCallback(images(), gates=[MET], when="fit")
    with pytest.raises(UsageError, match="a prefix is"):
        AuditCallback(images(), gates=[MET], prefix="a/b")
    split = SimpleNamespace(strategy=FSDPStrategy.__new__(FSDPStrategy))
    with pytest.raises(UsageError, match="FSDPStrategy splits it"):
        AuditCallback(images(), gates=[MET]).setup(split, Module(), "fit")


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"network": "netwrok"}, "network='netwrok': Module has no such part; did you mean network?"),
        ({"network": lambda _: 3}, "network: wanted a torch module, got int"),
        ({"data": "nowhere"}, "nowhere"),
        ({"device": "gpu"}, "--device is auto, cpu, cuda or cuda:N; got 'gpu'"),
    ],
)
def test_what_goes_wrong_in_the_audit_fails_the_program_in_one_line(wrong, line, tmp_path):
    with pytest.raises(AuditFailed) as caught:
        train(tmp_path, AuditCallback(**{"data": images(), "gates": [MET], "fail": False} | wrong))
    assert str(caught.value).startswith("auditkit: ")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("problem", [None, "FAIL: as rank zero says"])
def test_other_processes_audit_nothing_and_fail_with_the_first(problem, tmp_path):
    asked = []

    def broadcast(own):
        asked.append(own)
        return problem

    trainer = SimpleNamespace(
        fast_dev_run=False,
        is_global_zero=False,
        log_dir=None,
        default_root_dir=str(tmp_path),
        strategy=SimpleNamespace(broadcast=broadcast),
    )
    callback = AuditCallback("nowhere", gates=[MET])
    if problem is None:
        callback.on_fit_end(trainer, Module())
    else:
        with pytest.raises(AuditFailed, match=problem):
            callback.on_fit_end(trainer, Module())
    assert asked == [None]
    assert callback.audited is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not EXAMPLE.is_dir(), reason="the examples are not here")
def test_the_example_trains_audits_and_leaves_with_the_verdict(tmp_path, monkeypatch, capsys):
    shutil.copytree(EXAMPLE, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SystemExit) as left:
        runpy.run_path("train.py", run_name="__main__")
    assert left.value.code == ExitCode.FAIL
    printed = capsys.readouterr().out
    assert "fail: noise.gaussian/clean_accuracy >= 90%: the whole interval misses the requirement" in printed
    (report,) = Path("lightning_logs").rglob("report.html")
    assert str(report) in printed
