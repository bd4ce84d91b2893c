"""A model with bounded activations in a file of its own, and what the bounds cost on clean images: `harden`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from auditkit.bounding import (
    NothingToBound,
    Overflow,
    activation_quantiles,
    bounded_copy,
    bounded_onnx,
    onnx_twin_with_sites,
    save_bounded,
    save_bounded_onnx,
)
from auditkit.errors import AuditError, UsageError
from auditkit.models.base import Model
from auditkit.models.open import load_model
from auditkit.models.tryout import try_out
from auditkit.preparing import protected, set_up
from auditkit.samples import Samples
from auditkit.stats import Estimate, exact_mcnemar, proportion
from auditkit.workbench import Recipe, Workbench

__all__ = ["WHAT_IT_BUYS", "Hardened", "harden"]

WHAT_IT_BUYS = "prevent.bounded"
"""The check that attacks a model with and without bounds."""

# Enough to trace a network with, and to see that its file computes the same.
_TRIAL_IMAGES = 8
_TRYOUT_IMAGES = 64


@dataclass(frozen=True)
class Hardened:
    """A written model with bounds, beside the model that it was made from, on images that no bound was chosen on."""

    out: Path
    sites: int
    """How many rectifiers the network calls."""
    bounded: int
    """How many of them have a bound now."""
    calibrated_on: int
    """How many images the bounds were chosen on."""
    before: Estimate
    """Clean accuracy of the model as it was, on the held-out images."""
    after: Estimate
    """Clean accuracy of the written file, on the same images."""
    lost: int
    """Images that were classified correctly before, and are not now."""
    gained: int
    """Images that were not classified correctly before, and are now."""
    changed: int
    """Images whose class is another one now, right or wrong."""

    @property
    def p_value(self) -> float:
        """How often chance alone would part `lost` and `gained` at least so much; see `exact_mcnemar`."""
        return exact_mcnemar(self.lost, self.gained)

    def summary(self) -> str:
        """Return the numbers as lines for people."""
        return "\n".join(
            (
                f"written: {self.out}",
                f"{self.bounded} of {self.sites} sites bounded, calibrated on {self.calibrated_on} images",
                f"clean accuracy before: {self.before}",
                f"clean accuracy after: {self.after}",
                f"right before and wrong after: {self.lost}, wrong before and right after: {self.gained} "
                f"(exact McNemar p = {self.p_value:.3g}); another class: {self.changed}",
            )
        )


@dataclass(frozen=True)
class _Choice:
    """How bounds are chosen."""

    quantile: float
    per: Literal["channel", "layer"]
    overflow: Overflow

    def bounds(self, network: nn.Module, batches: Iterator[Tensor]) -> tuple[Tensor, ...]:
        measured = activation_quantiles(network, batches, [self.quantile], per_channel=self.per == "channel")
        return measured.bounds(self.quantile)


def harden(
    recipe: Recipe,
    out: Path,
    quantile: float = 0.999,
    per: Literal["channel", "layer"] = "channel",
    overflow: Overflow = "fold",
) -> Hardened:
    """Write a copy of a model whose rectifiers are bounded, and compare both on clean images.

    The images are split as for checks that learn: bounds are chosen on one part, accuracies are those of the other.
    The preprocessing is no part of the file, which takes what the model takes.

    Args:
        recipe: the model, the images, and how to read both; a model in memory is given back as it was.
        out: a new file: `.onnx` for an ONNX model, `.pt` or `.pt2` for any other. It is complete or not there.
        quantile: the share of the activations of clean images that a bound leaves as they are, above 0 and up to 1.
        per: whether each channel has a bound of its own, or all of a layer share one.
        overflow: what happens beyond a bound; see `bounded_copy`.

    Raises:
        UsageError: `out` is there or has the wrong ending, an option is out of range, the network has nothing to bound,
            or there are too few images.
        ExecutionError: the model cannot be rewritten, or not be written in this format.
    """
    _check_target(recipe, out)
    with protected(recipe):
        bench = set_up(recipe)
        learned = next(bench.lessons("dataset"))
        if len(learned) < 2:
            raise UsageError(
                f"{bench.dataset.source}: bounds are chosen on about half of the images, two at least; got "
                f"{len(learned)} of {len(bench.dataset)}"
            )
        with _complete(out) as file:
            is_bounded = _write(bench, learned.images, _Choice(quantile, per, overflow), file)
            labels, before, after = _answers(bench, _opened(bench, learned, file))
    n = len(labels)
    return Hardened(
        out=out,
        sites=len(is_bounded),
        bounded=sum(is_bounded),
        calibrated_on=len(learned),
        before=proportion(int((before == labels).sum()), n),
        after=proportion(int((after == labels).sum()), n),
        lost=int(((before == labels) & (after != labels)).sum()),
        gained=int(((before != labels) & (after == labels)).sum()),
        changed=int((before != after).sum()),
    )


def _is_onnx(recipe: Recipe) -> bool:
    return not isinstance(recipe.model, nn.Module) and Path(recipe.model).suffix == ".onnx"


def _check_target(recipe: Recipe, out: Path) -> None:
    is_onnx = _is_onnx(recipe)
    if out.suffix not in ((".onnx",) if is_onnx else (".pt", ".pt2")):
        wanted = "an ONNX model is written to a .onnx file" if is_onnx else "a torch model is written to .pt or .pt2"
        raise UsageError(f"{wanted}; got {out}")
    # Large weights of a graph go beside it.
    for file in (out, out.with_name(f"{out.name}.data")) if is_onnx else (out,):
        if file.exists():
            raise UsageError(f"{file} is there already; move it away, or choose another file")


@contextmanager
def _complete(out: Path) -> Iterator[Path]:
    """Give a path to write to; what is there in the end moves to `out`, and what is beside it to beside `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        written = Path(folder, out.name)
        try:
            yield written
        except AuditError as error:
            raise type(error)(str(error).replace(str(written), str(out))) from error
        # The graph comes last, for without the weights beside it it is nothing.
        for file in sorted(Path(folder).iterdir(), key=lambda file: file == written):
            file.replace(out.with_name(file.name))


def _write(bench: Workbench, images: Tensor, choice: _Choice, path: Path) -> tuple[bool, ...]:
    """Write the model with bounds chosen on images (N, C, H, W), and return for each site whether it has one."""
    size = bench.recipe.settings.batch
    batches = (bench.steps.inputs(images[at : at + size]) for at in range(0, len(images), size))
    try:
        if _is_onnx(bench.recipe):
            model = onnx.load(str(bench.recipe.model))
            bounds = choice.bounds(onnx_twin_with_sites(model).to(bench.model.device), batches)
            graph = bounded_onnx(model, bounds, choice.overflow)
            save_bounded_onnx(graph, path)
            return graph.is_bounded
        network = cast(nn.Module, bench.loaded.network)
        bounds = choice.bounds(network, batches)
        trial = bench.steps.inputs(images[:_TRIAL_IMAGES])
        bounded = bounded_copy(network, trial, bounds, choice.overflow)
        # Whoever loads the file need not have this device.
        bounded.network.cpu()
        save_bounded(bounded, trial.cpu(), path)
        return tuple(module is not None for module in bounded.paths)
    except NothingToBound as error:
        raise UsageError(str(error)) from error


def _opened(bench: Workbench, samples: Samples, file: Path) -> Model:
    """Open the written file as an audit would."""
    loaded = load_model(file, device=bench.model.device)
    first = samples.images[:_TRYOUT_IMAGES]
    return try_out(
        loaded, bench.steps, first, bench.model.device, bench.recipe.settings.batch, bench.model.info.classes
    )


def _answers(bench: Workbench, hardened: Model) -> npt.NDArray[np.int64]:
    """Return (3, N): labels, classes before and classes after, of the held-out images."""
    parts = []
    for start, stop in bench.shards:
        samples = bench.read(start, stop).samples
        judged = samples.take(torch.from_numpy(bench.held_out(samples.ids)))
        classes = [model.logits(judged.images).argmax(1) for model in (bench.classifier, hardened)]
        parts.append(torch.stack([judged.labels, *classes]).cpu().numpy())
    answers = np.concatenate(parts, axis=1)
    if not answers.shape[1]:
        raise UsageError(f"{bench.dataset.source}: no image is left to compare both models on; give more images")
    return answers
