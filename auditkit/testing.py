"""For authors of checks: toy models whose smallest attack is known in closed form, and the contract as a test."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from auditkit.artifacts import Shelf
from auditkit.attack import Attack
from auditkit.check import (
    OUTSIDE,
    Check,
    Conclusion,
    Findings,
    Finished,
    Learner,
    Lesson,
    Panel,
    Spec,
    Summarising,
)
from auditkit.context import Context
from auditkit.errors import AuditError
from auditkit.findings import check_columns
from auditkit.models.base import Capability, Model
from auditkit.models.loaded import digest_state
from auditkit.models.preprocess import Preprocessing
from auditkit.models.torch_files import load_module
from auditkit.models.tryout import try_out
from auditkit.origin import Origin, object_masks
from auditkit.plan import PRESETS, Planned, configure
from auditkit.queries import Queries
from auditkit.samples import Samples
from auditkit.streams import Streams
from auditkit.summaries import merge_tallies
from auditkit.threat import allowed

__all__ = [
    "LinearModel",
    "assert_contract",
    "linear_distance",
    "run_check",
    "run_learn",
    "toy_model",
    "toy_origin",
    "toy_samples",
]

_CPU = torch.device("cpu")
_BATCH = 32
_ID = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_LOWEST, _HIGHEST = 0.25, 0.75
_SAMPLES = 11
_CALIBRATION = 4
# Sums of floats in another order may differ so much.
_ROUNDING = 1e-9


class LinearModel(nn.Module):
    """A classifier whose logits are W x + b of the flattened image x, so that its smallest attack is a formula.

    W (classes, C * H * W) is standard normal from a generator with this seed; b centres the scores on grey images.
    """

    def __init__(self, classes: int = 3, shape: tuple[int, int, int] = (3, 8, 8), seed: int = 0) -> None:
        super().__init__()
        channels, height, width = shape
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(classes, channels * height * width, generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(-0.5 * weight.sum(1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, classes) for images (N, C, H, W)."""
        return nn.functional.linear(images.flatten(1), self.weight, self.bias)


def linear_distance(model: LinearModel, images: Tensor, labels: Tensor, norm: Literal["linf", "l2", "l1"]) -> Tensor:
    """Return float64 (N,): how far each image must move, in this norm, before another class wins.

    min over j of ((w_y - w_j) x + b_y - b_j) / |w_y - w_j|*, with the dual norm |.|*; 0 for an image (N, C, H, W)
    that is misclassified already. The bounds of [0, 1] are not looked at.
    """
    weight, bias = model.weight.detach().double(), model.bias.detach().double()
    own_weight, own_bias = weight[labels], bias[labels]
    across = own_weight.unsqueeze(1) - weight
    margin = torch.einsum("nkd,nd->nk", across, images.double().flatten(1)) + own_bias.unsqueeze(1) - bias
    dual = {"linf": 1.0, "l2": 2.0, "l1": float("inf")}[norm]
    away = margin / torch.linalg.vector_norm(across, ord=dual, dim=2)
    nearest: Tensor = away.scatter(1, labels.unsqueeze(1), torch.inf).amin(1)
    return nearest.clamp_min(0)


def toy_samples(
    n: int,
    seed: int = 0,
    shape: tuple[int, int, int] = (3, 8, 8),
    network: nn.Module | None = None,
    wrong_every: int = 8,
) -> Samples:
    """Return n random images with pixels in [0.25, 0.75], so that small changes stay inside [0, 1].

    Labels are what `network` says, but for every `wrong_every`-th, which is off by one; class 0 without a network.
    """
    generator = torch.Generator().manual_seed(seed)
    images = _LOWEST + (_HIGHEST - _LOWEST) * torch.rand(n, *shape, generator=generator)
    labels = torch.zeros(n, dtype=torch.int64)
    if network is not None:
        with torch.no_grad():
            scores = network(images)
        labels = scores.argmax(1)
        labels[wrong_every - 1 :: wrong_every] += 1
        labels %= scores.shape[1]
    return Samples(images, labels, tuple(f"toy{seed}-{row}" for row in range(n)))


def toy_model(network: nn.Module, images: Tensor) -> Model:
    """Return the network as an audit on the CPU would see it, tried on these images (N, C, H, W) in [0, 1].

    The network is put into evaluation mode.
    """
    return try_out(load_module(network.eval(), _CPU), Preprocessing(), images, _CPU, 128)


def toy_origin(attack: Attack, model: Model, samples: Samples, eps: float, seed: int = 0) -> Origin:
    """Return what the driver would tell `attack` about first searches of all `samples` at this budget.

    `eps` is infinite for an attack that looks for the nearest success.
    """
    return Origin(
        images=samples.images.clone(),
        labels=samples.labels.clone(),
        eps=torch.full((len(samples),), eps),
        restart=torch.zeros_like(samples.labels),
        logits=model.logits(samples.images),
        points=samples.images.clone(),
        masks=object_masks(samples),
        warm=torch.zeros_like(samples.labels, dtype=torch.bool),
        rng=Streams.of(seed, attack.spec.id, samples.ids),
    )


def run_check(check: Check, model: Model, samples: Samples, **context: Any) -> Findings:
    """Run a check on samples and hold its findings to the contract.

    `context` sets fields of the `Context`; the defaults are the check's id as key, seed 0, batch 32, and the model's
    own float32 copy to search with. A check that learns is given its `lesson` (see `run_learn`), one that reads others
    what they `finished`, by key, and one with the scope `outside` samples for `calibration`.

    Raises:
        ExecutionError: the findings break the contract, or the check itself raised one.
    """
    model, ctx = _context(check, model, samples, context)
    findings = check.run(model, samples, ctx)
    check_columns(check.spec, findings, len(samples))
    return findings


def run_learn(check: Learner, model: Model, samples: Samples, **context: Any) -> Lesson:
    """Let a check that learns do so from samples; `context` is that of `run_check`."""
    model, ctx = _context(check, model, samples, context)
    return check.learn(model, samples, ctx)


def _context(check: Check, model: Model, samples: Samples, chosen: Mapping[str, Any]) -> tuple[Model, Context]:
    values: dict[str, Any] = {
        "key": check.spec.id,
        "seed": 0,
        "batch": _BATCH,
        "search": model.exact,
        "started": time.monotonic(),
        **chosen,
    }
    model = model.in_batches_of(values["batch"])
    if values["search"] is not None:
        values["search"] = replace(values["search"], batch=values["batch"])
    if "calibration" in values:
        values["calibration"] = Shelf(model, values["calibration"])
    return model, Context(shelf=Shelf(model, samples), **values)


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
        network: a torch classifier; a `LinearModel` if None.
        samples: labelled images for it; some that it gets right and some wrong if None.
        beside: checks of scope `sample` that run before, for a check that reads others.

    Raises:
        AssertionError: the check breaks the contract; the message says where.
    """
    planned = _declared(check, options or {}, beside)
    network = (network if network is not None else LinearModel()).eval()
    learns = planned.check.spec.scope != "sample"
    if samples is None:
        samples = toy_samples(2 * _SAMPLES if learns else _SAMPLES, network=network, wrong_every=4)
    training = samples.take(range(len(samples) // 2)) if learns else None
    judged = samples.take(range(len(samples) // 2, len(samples))) if learns else samples
    trial = _Trial(planned.check, toy_model(network, samples.images), judged, training, tuple(beside))
    before = digest_state(network), trial.digests(), torch.get_rng_state(), _numpy_state()
    wanted = trial.run("the first run")
    _hold_findings(planned.check.spec, wanted.findings, trial)
    after = digest_state(network), trial.digests(), torch.get_rng_state(), _numpy_state()
    for what, old, new in zip(
        ("the model", "the images", "torch's random state", "numpy's"), before, after, strict=True
    ):
        same = torch.equal(old, new) if isinstance(old, Tensor) and isinstance(new, Tensor) else old == new
        _hold(same, f"the check changed {what}")
    _hold_same(wanted, trial.run("a second run"), "a second run with the same seed")
    for batch in (1, 3, 8):
        _hold_same(wanted, trial.run(f"batch {batch}", batch=batch), f"a batch of {batch}")
    # Turned round, so that the first sample is another one.
    order: list[int] = torch.randperm(len(judged), generator=torch.Generator().manual_seed(1)).tolist()[::-1]
    turned = None if training is None else training.take(range(len(training))[::-1])
    shuffled = replace(trial, samples=judged.take(order), training=turned).run("shuffled samples")
    if planned.check.spec.scope == "outside":
        # What is learned may list the images of the second data set one by one; what is found must not care.
        shuffled = replace(shuffled, lesson=wanted.lesson)
        _hold_same(wanted, replace(trial, parts=2).run("two shards"), "a second data set in two shards")
    _hold_same(_Outcome(_permuted(wanted.findings, order), wanted.lesson), shuffled, "shuffled samples")
    if wanted.findings.tallies and not beside:
        _hold_tallies(trial, wanted)
    trial.run("another seed", seed=1)
    if beside:
        replace(trial, beside=()).run("nothing to read (no check that it reads was run)")
    _hold_without_gradients(trial)
    if isinstance(planned.check, Attack):
        _hold_budget(planned.check, trial.model, judged)


def _hold_without_gradients(trial: _Trial) -> None:
    # Activations are those of the network that gives gradients, too.
    if trial.check.spec.needs & {Capability.GRADIENTS, Capability.ACTIVATIONS}:
        return
    blind = replace(trial.model, exact=None, no_gradients="this toy gives none")
    beside = tuple(check for check in trial.beside if Capability.GRADIENTS not in check.spec.needs)
    situation = "a model without gradients (the spec does not need them)"
    replace(trial, model=blind, beside=beside).run(situation)


def _hold(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


@dataclasses.dataclass(frozen=True)
class _Outcome:
    findings: Findings
    lesson: Lesson


@dataclasses.dataclass(frozen=True)
class _Trial:
    check: Check
    model: Model
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

    def run(self, situation: str, **context: Any) -> _Outcome:
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
            return _Outcome(run_check(self.check, self.model, self.samples, lesson=lesson, **context), lesson)
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
    _hold(named, f"{spec.id}: learn returns named arrays of numbers or texts, not {lesson!r}")


def _hold_tallies(trial: _Trial, wanted: _Outcome) -> None:
    """Hold the tallies to what they are for: those of two shards together are those of all samples."""
    cut = len(trial.samples) // 2
    shards = (range(cut), range(cut, len(trial.samples)))
    parts = [replace(trial, samples=trial.samples.take(rows)).run("half of the samples") for rows in shards]
    try:
        merged = merge_tallies([part.findings.tallies for part in parts])
        conclusion = cast(Summarising, trial.check).conclude(merged)
    except AuditError as error:
        raise AssertionError(f"two shards: {error}") from error
    _hold(
        isinstance(conclusion, Conclusion), f"{trial.check.spec.id}: conclude returns a Conclusion, not {conclusion!r}"
    )
    for name, tally in wanted.findings.tallies.items():
        _hold(_close(tally.array, merged[name]), f"two shards gave another tally {name} than all samples at once")


def _declared(check: type[Any] | Check, options: Mapping[str, Any], beside: Sequence[Check]) -> Planned:
    kind: Any = check if isinstance(check, type) else type(check)
    name = kind.__name__
    _hold(dataclasses.is_dataclass(kind), f"{name} is not a dataclass")
    _hold(kind.__dataclass_params__.frozen, f"{name} is not frozen: @dataclass(frozen=True)")
    spec = getattr(kind, "spec", None)
    if not isinstance(spec, Spec):
        raise AssertionError(f"{name} has no spec of type Spec")
    _hold_spec(name, spec)
    _hold_methods(name, kind)
    for other in beside:
        reads = any(fnmatch.fnmatchcase(other.spec.id, pattern) for pattern in spec.reads)
        _hold(reads, f"{spec.id} does not read {other.spec.id}: it reads {', '.join(spec.reads) or 'nothing'}")
    try:
        for preset, chosen in spec.presets.items():
            _hold(preset in PRESETS, f"{name} names a preset {preset!r}; there are {', '.join(PRESETS)}")
            configure(kind, chosen, spec.id, "testing")
        if not isinstance(check, type):
            _hold(not options, "options go with the class of a check, not with one that has its options")
            options = {field.name: getattr(check, field.name) for field in dataclasses.fields(kind)}
        planned = configure(kind, options, spec.id, "testing")
        text = json.dumps(dict(planned.options), allow_nan=False)
        again = configure(kind, json.loads(text), spec.id, "testing").check
    except (AuditError, TypeError, ValueError) as error:
        raise AssertionError(f"the options of {name} are not plain data that can be read back: {error}") from error
    _hold(again == planned.check, f"the options of {name} do not survive being stored as {text}")
    return planned


def _hold_methods(name: str, kind: type[Any]) -> None:
    _hold(callable(getattr(kind, "run", None)), f"{name} has no method run")
    if kind.spec.scope != "sample":
        _hold(callable(getattr(kind, "learn", None)), f"{name} has scope {kind.spec.scope} and no method learn")


def _hold_spec(name: str, spec: Spec) -> None:
    _hold(_ID.fullmatch(spec.id) is not None, f"{name}: an id reads group.name in lower case, not {spec.id!r}")
    for field in ("title", "why"):
        _hold(bool(getattr(spec, field).strip()), f"{spec.id}: the spec has no {field}")
    _hold(len(spec.metrics) > 0, f"{spec.id}: the spec has no metrics, so nothing of it can be gated")
    names = [metric.name for metric in spec.metrics]
    _hold(len(set(names)) == len(names), f"{spec.id}: two metrics share a name")
    for metric in spec.metrics:
        _hold(bool(metric.title.strip()), f"{spec.id}: metric {metric.name} has no title")
    for curve in spec.curves:
        _hold(curve.metric in names, f"{spec.id}: a curve of {curve.metric}, which is no metric of it")
    for flag in spec.flags:
        _hold(
            flag.metric in names,
            f"{spec.id}: flag {flag.id} looks at {flag.metric}, which is no metric of it",
        )
        _hold(bool(flag.text and flag.remedy), f"{spec.id}: flag {flag.id} needs a text and a remedy")


def _hold_findings(spec: Spec, findings: Findings, trial: _Trial) -> None:
    samples, shown = trial.samples, set(trial.samples.ids)
    if spec.scope == "outside" and trial.training is not None:
        shown |= {OUTSIDE + name for name in trial.training.ids}
    for name in ("forwards", "backwards"):
        passes = getattr(findings, name)
        fits = passes is None or (passes.shape == (len(samples),) and passes.dtype.kind in "iu")
        _hold(fits, f"{spec.id}: {name} are one integer a sample, ({len(samples)},)")
    for exhibit in findings.exhibits:
        _hold(exhibit.sample in shown, f"{spec.id}: an exhibit of {exhibit.sample!r}, which is no sample")
        _hold(bool(np.isfinite(exhibit.score)), f"{spec.id}: the score of an exhibit is {exhibit.score}")
        for panel in exhibit.panels:
            _hold(_is_picture(panel), f"{spec.id}: panel {panel.title!r} is no {panel.kind}, see Panel")


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


def _hold_same(wanted: _Outcome, got: _Outcome, situation: str) -> None:
    _hold(sorted(wanted.lesson) == sorted(got.lesson), f"{situation} taught arrays of other names")
    for name, array in wanted.lesson.items():
        _hold(_equal(array, got.lesson[name]), f"{situation} taught another {name}")
    old, new = wanted.findings, got.findings
    _hold(list(old.columns) == list(new.columns), f"{situation} gave other columns")
    pairs = {name: (column, new.columns[name]) for name, column in old.columns.items()}
    for name in ("forwards", "backwards"):
        pairs[name] = getattr(old, name), getattr(new, name)
    for name, (before, now) in pairs.items():
        if before is None or now is None:
            _hold(before is now, f"{situation} gave or left out {name}")
            continue
        text = f"{situation} gave another {name}: {now.tolist()}; wanted {before.tolist()}"
        _hold(_equal(before, now), text)
    _hold(list(old.others) == list(new.others), f"{situation} gave other numbers about other images")
    for name, values in old.others.items():
        _hold(_equal(np.sort(values), np.sort(new.others[name])), f"{situation} gave another {name}")
    _hold(list(old.tallies) == list(new.tallies), f"{situation} gave other tallies")
    for name, tally in old.tallies.items():
        _hold(_close(tally.array, new.tallies[name].array), f"{situation} gave another tally {name}")
    shown = [(exhibit.sample, exhibit.caption, exhibit.score) for exhibit in old.exhibits]
    shown_now = [(exhibit.sample, exhibit.caption, exhibit.score) for exhibit in new.exhibits]
    _hold(shown == shown_now, f"{situation} gave other exhibits: {shown_now}; wanted {shown}")


def _equal(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> bool:
    return old.dtype == new.dtype and np.array_equal(old, new, equal_nan=old.dtype.kind == "f")


def _close(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> bool:
    return old.shape == new.shape and np.allclose(old, new, rtol=_ROUNDING, atol=0)


def _permuted(findings: Findings, order: Sequence[int]) -> Findings:
    forwards, backwards = findings.forwards, findings.backwards
    return replace(
        findings,
        columns={name: column[order] for name, column in findings.columns.items()},
        forwards=None if forwards is None else forwards[order],
        backwards=None if backwards is None else backwards[order],
    )


def _numpy_state() -> tuple[bytes, int]:
    state = np.random.get_state(legacy=False)  # noqa: NPY002 (the global generator is what must stay untouched)
    inner = state["state"] if isinstance(state, dict) else {}
    return inner["key"].tobytes(), inner["pos"]


class _Watched(Queries):
    """Queries that hold every image asked about to the budget, also one that fools nobody."""

    def _note(self, images: Tensor, scores: Tensor, marks: Tensor | None = None, worth: Tensor | None = None) -> None:
        each = len(images) // len(self._clean)
        clean = self._clean.repeat_interleave(each, 0)
        inside = allowed(self._norm, self._eps.repeat_interleave(each), clean, images)
        _hold(bool(inside.all()), f"the attack asked about {int((~inside).sum())} images outside its budget")
        super()._note(images, scores, marks, worth)


def _hold_budget(attack: Attack, model: Model, samples: Samples) -> None:
    """Drive every sample to the end at every budget, whether it is fooled or not, and once more from where it ended."""
    for eps in (math.inf,) if attack.goal == "nearest" else attack.eps:
        origin = toy_origin(attack, model, samples, eps)
        ended = _driven(attack, model, samples, origin)
        if attack.goal != "nearest":
            _driven(attack, model, samples, replace(origin, points=ended, warm=torch.ones_like(origin.warm)))


def _driven(attack: Attack, model: Model, samples: Samples, origin: Origin) -> Tensor:
    """Return where the rows stand after all steps, none of them outside its budget."""
    reach = torch.full_like(origin.eps, torch.inf)
    budgets, state = origin.eps.clone(), attack.start(origin)
    for _ in range(attack.steps):
        asked = (model.exact, model, samples.images, samples.labels, budgets, attack.norm, attack.goal, reach)
        queries = _Watched(*asked, len(attack.marks), attack.expectation, origin.rng, torch.zeros_like(origin.labels))
        state = attack.step(queries, state)
        reach = queries.reach
        inside = allowed(attack.norm, budgets, samples.images, state.images)
        _hold(bool(inside.all()), "the attack's state holds images outside its budget")
    ended: Tensor = state.images.clone()
    return ended
