"""A callback for Lightning: the audit of a network after it was fitted, or after it was tested."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
    from lightning.pytorch.utilities import rank_zero_info
except ImportError as error:
    raise ImportError(
        f'auditkit.integrations.lightning needs Lightning: pip install "auditkit[lightning]" ({error})'
    ) from error

from auditkit.auditing import AuditResult, audit
from auditkit.errors import AuditError, ExitCode, UsageError, did_you_mean
from auditkit.integrations.request import completed
from auditkit.integrations.tracking import check_prefix, tracked_metrics
from auditkit.models.open import choose_device
from auditkit.report.text import verdict_lines, verdict_sentence

__all__ = ["AuditCallback", "AuditFailed"]

_SPLIT = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)
_WHEN = ("fit_end", "test_end")


class AuditFailed(AuditError):
    """An audit that is not passed (a gate fails or is in doubt, a check crashed), or that could not be done."""

    exit_code = ExitCode.FAIL


class AuditCallback(Callback):
    """Audits the network of a LightningModule, and fails the training program unless every gate passes.

    Metrics go to the loggers of the trainer. Everything else is written to `out`, by default the folder `auditkit` in
    the trainer's `log_dir`. The process of rank zero audits, and the others wait for it. Weights, mode, device and
    random generators are left as they were.

    Args:
        data: As `auditkit.audit` takes it: a path, a data set, or (images, labels).
        gates: Requirements, such as `"noise.pgd/robust_accuracy >= 40%"`.
        checks: Ids or patterns; without them and without a preset, those that the gates name.
        when: `fit_end` or `test_end`.
        network: The part that takes images and returns scores: a name such as `"model"`, or a function that returns it
            for the LightningModule; by default the LightningModule itself.
        out: The folder to write to.
        fail: Whether to raise `AuditFailed` unless the audit is passed; all files are written before.
        prefix: What the names of the metrics begin with.
        settings: Those of `auditkit.audit`: `options`, `preset`, `seed`, `limit` ...

    Attributes:
        audited: What the last audit found, on rank zero; None before.

    Raises:
        UsageError: a setting, a check, an option or a gate is not what it should be: said before the training begins.
    """

    def __init__(
        self,
        data: object,
        *,
        gates: Any = (),
        checks: Any = (),
        when: Literal["fit_end", "test_end"] = "fit_end",
        network: str | Callable[[LightningModule], nn.Module] | None = None,
        out: str | Path | None = None,
        fail: bool = True,
        prefix: str = "auditkit",
        **settings: Any,
    ) -> None:
        if when not in _WHEN:
            raise UsageError(f"when is {' or '.join(_WHEN)}; got {when!r}")
        check_prefix(prefix)
        self.settings = completed({**settings, "gates": gates, "checks": checks})
        self.data = data
        self.when = when
        self.network = network
        self.out = out
        self.fail = fail
        self.prefix = prefix
        self.audited: AuditResult | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a strategy under which no process has the whole network, before anything is trained."""
        if isinstance(trainer.strategy, _SPLIT):
            raise UsageError(
                f"an audit needs the whole network in one process; {type(trainer.strategy).__name__} splits it: "
                "audit the saved checkpoint instead"
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit, if this is the time."""
        if self.when == "fit_end":
            self._audit(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Audit, if this is the time."""
        if self.when == "test_end":
            self._audit(trainer, pl_module)

    def _audit(self, trainer: Trainer, module: LightningModule) -> None:
        """Audit on rank zero, and tell all processes how it ended: they fail together, or go on together."""
        if trainer.fast_dev_run:
            rank_zero_info("auditkit: no audit in a fast_dev_run")
            return
        # Every process must ask for it: Lightning sends it from one to the others.
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        problem: str | None = None
        cause: AuditError | None = None
        if trainer.is_global_zero:
            try:
                problem = self._audit_here(trainer, module, Path(self.out or folder / "auditkit"))
            except AuditError as error:
                problem, cause = f"auditkit: {error}", error
        problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            raise AuditFailed(problem) from cause

    def _audit_here(self, trainer: Trainer, module: LightningModule, out: Path) -> str | None:
        """Audit, log and write; return why the program must fail, None if it need not."""
        device = _device_of(trainer, self.settings.get("device", "auto"))
        network = _network_of(module, self.network)
        with torch.inference_mode(False), torch.enable_grad(), _placed(network, device):
            audited = audit(network, self.data, out=out, **{**self.settings, "device": str(device)})
        self.audited = audited
        for logger in trainer.loggers:
            logger.log_metrics(tracked_metrics(audited, self.prefix), step=trainer.global_step)
        rank_zero_info(f"auditkit: {verdict_sentence(audited.result)}; report: {out / 'report.html'}")
        if audited.passed or not self.fail:
            return None
        return "\n".join([*verdict_lines(audited.result), f"report: {out / 'report.html'}"])


def _network_of(module: LightningModule, chosen: str | Callable[[LightningModule], nn.Module] | None) -> nn.Module:
    """Return what is to be audited.

    Raises:
        UsageError: there is nothing of this name, or it is no network.
    """
    network: object = module
    if chosen is not None:
        try:
            network = chosen(module) if callable(chosen) else module.get_submodule(chosen)
        except AttributeError:
            names = [name for name, _ in module.named_modules() if name]
            raise UsageError(
                f"network={chosen!r}: {type(module).__name__} has no such part{did_you_mean(str(chosen), names)}"
            ) from None
    if not isinstance(network, nn.Module):
        raise UsageError(f"network: wanted a torch module, got {type(network).__name__}")
    return network


def _device_of(trainer: Trainer, wanted: str) -> torch.device:
    """Return the device that is wanted; for `auto` where the network was trained if that is CUDA, else the CPU.

    Raises:
        UsageError: there is no such device here.
    """
    if wanted != "auto":
        return choose_device(wanted)
    trained = torch.device(trainer.strategy.root_device)
    return trained if trained.type == "cuda" else torch.device("cpu")


@contextmanager
def _placed(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Move a network to the device (Lightning takes it to the CPU after a fit), and back again at the end."""
    before = next((parameter.device for parameter in network.parameters()), device)
    try:
        network.to(device)
        yield
    finally:
        network.to(before)
