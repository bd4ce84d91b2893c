"""The contract of checks as a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from auditkit.attack import Attack
from auditkit.check import OUTSIDE, Check, Conclusion, Findings, Finished, Learner, Lesson, Panel, Spec, Summarising
from auditkit.errors import AuditError
from auditkit.models.base import Capability, Model
from auditkit.models.loaded import digest_state
from auditkit.objects.detector import Detector
from auditkit.samples import Samples
from auditkit.summaries import merge_tallies
from auditkit.testing.budget import hold_budget
from auditkit.testing.declaration import declared
from auditkit.testing.holding import hold
from auditkit.testing.running import run_check, run_learn
from auditkit.testing.sameness import Outcome, close, hold_same, permuted
from auditkit.testing.toys import LinearModel, toy_detector, toy_model, toy_samples

__all__ = ["assert_contract"]

_SAMPLES = 11
_CALIBRATION = 4


def assert_contract(
    check: type[Any] | Check,
    *,
    options: Mapping[str, Any] | None = None,
    network: nn.Module | None = None,
    samples: Samples | None = None,
    beside: Sequence[Check] = (),
) -> None:
    """Hold a check to the contract on a toy model: declaration, findings, determinism, and changing nothing.

    A check that learns does so from the first half of the samples and is judged on the rest; the same holds for
    what it learns as for what it finds. With the scope `outside` that half stands for the second data set, and is
    shown in two parts, too.

    Args:
        check: the class of a check, or one with its options chosen.
        options: options for a class; few steps keep the test short.
        network: a torch classifier; a `LinearModel` if None. With samples that have objects, a detector.
        samples: labelled images for it; some that it gets right and some wrong if None.
        beside: checks of scope `sample` that run before, for a check that reads others.

    Raises:
        AssertionError: the check breaks the contract; the message says where.
    """
    planned = declared(check, options or {}, beside)
    network = (network if network is not None else LinearModel()).eval()
    learns = planned.check.spec.scope != "sample"
    if samples is None:
        samples = toy_samples(2 * _SAMPLES if learns else _SAMPLES, network=network, wrong_every=4)
    training = samples.take(range(len(samples) // 2)) if learns else None
    judged = samples.take(range(len(samples) // 2, len(samples))) if learns else samples
    model = toy_model(network, samples.images) if samples.objects is None else toy_detector(network, samples)
    trial = _Trial(planned.check, model, judged, training, tuple(beside))
    before = digest_state(network), trial.digests(), torch.get_rng_state(), _numpy_state()
    wanted = trial.run("the first run")
    _hold_findings(planned.check.spec, wanted.findings, trial)
    after = digest_state(network), trial.digests(), torch.get_rng_state(), _numpy_state()
    for what, old, new in zip(
        ("the model", "the images", "torch's random state", "numpy's"), before, after, strict=True
    ):
        same = torch.equal(old, new) if isinstance(old, Tensor) and isinstance(new, Tensor) else old == new
        hold(same, f"the check changed {what}")
    hold_same(wanted, trial.run("a second run"), "a second run with the same seed")
    for batch in (1, 3, 8):
        hold_same(wanted, trial.run(f"batch {batch}", batch=batch), f"a batch of {batch}")
    # Turned round, so that the first sample is another one.
    order: list[int] = torch.randperm(len(judged), generator=torch.Generator().manual_seed(1)).tolist()[::-1]
    turned = None if training is None else training.take(range(len(training))[::-1])
    shuffled = replace(trial, samples=judged.take(order), training=turned).run("shuffled samples")
    if planned.check.spec.scope == "outside":
        # What is learned may list the images of the second data set one by one; what is found must not care.
        shuffled = replace(shuffled, lesson=wanted.lesson)
        hold_same(wanted, replace(trial, parts=2).run("two shards"), "a second data set in two shards")
    hold_same(Outcome(permuted(wanted.findings, order), wanted.lesson), shuffled, "shuffled samples")
    if wanted.findings.tallies and not beside:
        _hold_tallies(trial, wanted)
    trial.run("another seed", seed=1)
    if beside:
        replace(trial, beside=()).run("nothing to read (no check that it reads was run)")
    _hold_without_gradients(trial)
    if isinstance(planned.check, Attack) and isinstance(model, Model):
        hold_budget(planned.check, model, judged)


def _hold_without_gradients(trial: _Trial) -> None:
    # Activations are those of the network that gives gradients, too.
    if trial.check.spec.needs & {Capability.GRADIENTS, Capability.ACTIVATIONS}:
        return
    blind = replace(trial.model, exact=None, no_gradients="this toy gives none")
    beside = tuple(check for check in trial.beside if Capability.GRADIENTS not in check.spec.needs)
    situation = "a model without gradients (the spec does not need them)"
    replace(trial, model=blind, beside=beside).run(situation)


@dataclass(frozen=True)
class _Trial:
    check: Check
    model: Model | Detector
    samples: Samples
    training: Samples | None
    """None for a check that does not learn."""
    beside: tuple[Check, ...]
    parts: int = 1
    """How many shards a second data set comes in."""

    @property
    def calibration(self) -> Samples:
        """The same few samples in whatever order they come."""
        few = sorted(range(len(self.samples)), key=self.samples.ids.__getitem__)[:_CALIBRATION]
        return self.samples.take(few)

    def digests(self) -> tuple[str, ...]:
        return self.samples.digests() + (self.training.digests() if self.training is not None else ())

    def run(self, situation: str, **context: Any) -> Outcome:
        try:
            if self.beside:
                context["finished"] = {other.spec.id: self._finished(other, context) for other in self.beside}
            lesson: Lesson = {}
            if self.training is not None:
                if self.check.spec.scope == "outside":
                    context["calibration"] = self.calibration
                for shard in self._shards(self.training):
                    lesson = run_learn(cast(Learner, self.check), self.model, shard, lesson=lesson, **context)
                    _hold_lesson(self.check.spec, lesson)
            return Outcome(run_check(self.check, self.model, self.samples, lesson=lesson, **context), lesson)
        except AuditError as error:
            raise AssertionError(f"{situation}: {error}") from error

    def _shards(self, samples: Samples) -> list[Samples]:
        # Copies would hide that a check changes its images.
        if self.parts == 1:
            return [samples]
        return [samples.take(rows.tolist()) for rows in np.array_split(np.arange(len(samples)), self.parts)]

    def _finished(self, other: Check, context: Mapping[str, Any]) -> Finished:
        findings = run_check(other, self.model, self.samples, **context)
        return Finished(other, findings.columns, findings.attacked)


def _hold_lesson(spec: Spec, lesson: object) -> None:
    named = isinstance(lesson, Mapping) and all(
        isinstance(name, str) and isinstance(array, np.ndarray) and array.dtype.kind in "biufU"
        for name, array in lesson.items()
    )
    hold(named, f"{spec.id}: learn returns named arrays of numbers or texts, not {lesson!r}")


def _hold_tallies(trial: _Trial, wanted: Outcome) -> None:
    """Hold the tallies to what they are for: those of two shards together are those of all samples."""
    cut = len(trial.samples) // 2
    shards = (range(cut), range(cut, len(trial.samples)))
    parts = [replace(trial, samples=trial.samples.take(rows)).run("half of the samples") for rows in shards]
    try:
        merged = merge_tallies([part.findings.tallies for part in parts])
        conclusion = cast(Summarising, trial.check).conclude(merged)
    except AuditError as error:
        raise AssertionError(f"two shards: {error}") from error
    hold(
        isinstance(conclusion, Conclusion), f"{trial.check.spec.id}: conclude returns a Conclusion, not {conclusion!r}"
    )
    for name, tally in wanted.findings.tallies.items():
        hold(close(tally.array, merged[name]), f"two shards gave another tally {name} than all samples at once")


def _hold_findings(spec: Spec, findings: Findings, trial: _Trial) -> None:
    samples, shown = trial.samples, set(trial.samples.ids)
    if spec.scope == "outside" and trial.training is not None:
        shown |= {OUTSIDE + name for name in trial.training.ids}
    for name in ("forwards", "backwards"):
        passes = getattr(findings, name)
        fits = passes is None or (passes.shape == (len(samples),) and passes.dtype.kind in "iu")
        hold(fits, f"{spec.id}: {name} are one integer a sample, ({len(samples)},)")
    for exhibit in findings.exhibits:
        hold(exhibit.sample in shown, f"{spec.id}: an exhibit of {exhibit.sample!r}, which is no sample")
        hold(bool(np.isfinite(exhibit.score)), f"{spec.id}: the score of an exhibit is {exhibit.score}")
        for panel in exhibit.panels:
            hold(_is_picture(panel), f"{spec.id}: panel {panel.title!r} is no {panel.kind}, see Panel")


def _is_picture(panel: Panel) -> bool:
    array = panel.array
    match panel.kind:
        case "image":
            return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] in (1, 3)
        case "difference":
            inside = array.dtype == np.float32 and array.ndim == 3 and array.shape[2] in (1, 3)
            return inside and bool((np.abs(array) <= 1).all())
        case "heat":
            return array.dtype == np.float32 and array.ndim == 2 and bool((array >= 0).all())
        case "overlay":
            fits = array.dtype == np.float32 and array.ndim == 3 and array.shape[2] in (2, 4)
            return fits and bool((array >= 0).all()) and bool((array[:, :, :-1] <= 1).all())


def _numpy_state() -> tuple[bytes, int]:
    state = np.random.get_state(legacy=False)  # noqa: NPY002 (the global generator is what must stay untouched)
    inner = state["state"] if isinstance(state, dict) else {}
    return inner["key"].tobytes(), inner["pos"]
