"""Does the model answer as a classifier should? What forward passes alone can tell, for any model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_LOGITS,
    Capability,
    Context,
    Differentiable,
    Findings,
    FlagRule,
    Metric,
    Model,
    Samples,
    Spec,
    Streams,
)

__all__ = ["ModelSanity"]

# Scores that differ by more between runs, both scaled to length 1, come from a randomised model.
_RANDOM_TOLERANCE = 1e-4
# Scores that differ by more between batches, against the image's largest, are more than another order of summation.
_BATCH_TOLERANCE = 1e-3
_ROUNDINGS = 32
# What a few roundings of float32 do to an image, and how much more than that a batch may do.
_ROUNDING, _LIKE_ROUNDING = 1e-6, 2.0
_COMPANIES = (1, 2, 8, 32)
_RANGE_TOLERANCE = 1e-5
_SUM_TOLERANCE = 1e-3
# Uniform noise is drawn from half of this on either side.
_NOISE_WIDTH = 8 / 255
_DECIMALS = 6
_GRADIENTS = frozenset({Capability.GRADIENTS})


@dataclass(frozen=True)
class ModelSanity:
    """Look for randomness, neighbours that matter, saturated scores, jumps, and copies that disagree."""

    spec: ClassVar[Spec] = Spec(
        id="sanity.model",
        title="The model gives each image one answer, on a usable scale, and its copies agree",
        why=(
            "An audit asks the same model many times, in batches, and searches on a faster copy of it. Where answers "
            "depend on chance or on the other images, where scores have left the range of float32, or where the copy "
            "is another model, attacks fail for reasons that have nothing to do with robustness."
        ),
        metrics=(
            Metric("random_scores", "random_score", "Images whose scores change from run to run"),
            Metric("random_labels", "random_label", "Images whose predicted class changes from run to run"),
            Metric("batch_dependent", "batch_dependent", "Images whose scores depend on the batch they are in"),
            Metric("probability_scores", "probability", "Images whose scores are probabilities"),
            Metric("saturated_scores", "saturated", "Images whose softmax is exactly 1 in float32"),
            Metric("certain_mistakes", "certain_mistake", "Misclassified images whose softmax is exactly 1"),
            Metric("noise_flips", "noise_flips", "Images whose class tiny noise changes"),
            Metric("unstable_margin", "unstable_margin", "Mean relative change of the margin in tiny noise", "mean"),
            Metric(
                "exact_disagrees", "exact_disagrees", "Images that the float32 copy labels otherwise", among="has_exact"
            ),
            Metric("exact_gap", "exact_gap", "Mean relative difference of its scores", "mean", among="has_exact"),
            Metric(
                "search_disagrees",
                "search_disagrees",
                "Images that the search copy labels otherwise",
                among="has_search",
            ),
            Metric("search_gap", "search_gap", "Mean relative difference of its scores", "mean", among="has_search"),
        ),
        flags=(
            FlagRule(
                "sanity.random",
                "random_scores",
                above=0.0,
                text="The model gives the same image different scores from run to run, so a single query proves "
                "little and attacks are understated.",
                remedy="Switch the randomness off for the audit (evaluation mode, no dropout), or attack its "
                "expectation.",
                doubts=_GRADIENTS,
            ),
            FlagRule(
                "sanity.batch_dependent",
                "batch_dependent",
                above=0.0,
                text="An image gets other scores alone than beside other images, by more than rounding. Its verdict "
                "then depends on its neighbours.",
                remedy="Put batch norm into evaluation mode (and export again), use static instead of dynamic "
                "quantisation, and let nothing mix the rows of a batch.",
            ),
            FlagRule(
                "sanity.probabilities",
                "probability_scores",
                above=0.5,
                text="The scores are probabilities: none is negative or above 1, and they sum to 1. Losses that apply "
                "softmax again have almost no gradient left.",
                remedy="State it with --outputs probabilities, or export the logits before the softmax.",
            ),
            FlagRule(
                "sanity.saturated_scores",
                "saturated_scores",
                above=0.9,
                text="For nearly all images the softmax in float32 is exactly 1: the scores are too far apart for the "
                "cross-entropy to have a gradient, which looks like robustness and is none.",
                remedy="Look for a scale or temperature before the scores, and use attacks on the margin.",
            ),
            FlagRule(
                "sanity.unstable",
                "unstable_margin",
                above=0.4,
                text="Noise of at most four grey levels changes the margins by 40 % and more, several times as much as "
                "in usual networks: the scores jump, so a step that an attack takes says little about the next.",
                remedy="Look for quantisation, random or winner-take-all layers; average the attack's gradients over "
                "noise, and try attacks without gradients.",
            ),
            FlagRule(
                "sanity.exact_disagrees",
                "exact_disagrees",
                above=0.02,
                text="The float32 copy that gives gradients labels clean images otherwise than the deployed model.",
                remedy="Read attacks without gradients; look for an operator that the conversion got wrong, and "
                "report it with the file.",
                doubts=_GRADIENTS,
            ),
            FlagRule(
                "sanity.search_disagrees",
                "search_disagrees",
                above=0.1,
                text="The fast copy that attacks search on labels many clean images otherwise than the deployed "
                "model. What fools one may not fool the other, so success is understated.",
                remedy="Search in full precision: --precision float32.",
                doubts=_GRADIENTS,
            ),
        ),
        references=(
            "Croce and Hein 2020, the checks of AutoAttack, https://arxiv.org/abs/2003.01690",
            "Pintor et al. 2022, indicators of attack failure, https://arxiv.org/abs/2106.09947",
        ),
        presets={"smoke": {"runs": 3, "draws": 5}, "standard": {}, "full": {"draws": 100}},
    )

    runs: Annotated[int, Field(ge=2)] = 5
    """How often every image is asked about as it is."""
    draws: Annotated[int, Field(ge=1)] = 20
    """Draws of tiny noise an image."""

    def run(self, model: Model, samples: Samples, ctx: Context) -> Findings:
        """Ask about every image: again, in other company, in tiny noise, and the copies of the model."""
        clean = ctx.shelf.get(CLEAN_LOGITS)
        random_score, random_label = _changes(clean, self.runs, model, samples, ctx)
        probabilities = torch.softmax(clean, 1)
        certain = probabilities.amax(1) == 1
        flips, change = self._in_noise(clean, model, samples, ctx)
        columns: dict[str, Tensor] = {
            "random_score": random_score,
            "random_label": random_label,
            "batch_dependent": _depends_on_company(model, samples, ctx) & ~random_score,
            "probability": _are_probabilities(clean),
            "saturated": certain,
            "certain_mistake": certain & (clean.argmax(1) != samples.labels),
            "noise_flips": flips,
            "unstable_margin": change,
            **_agreement("exact", model.exact, clean, samples),
            **_agreement("search", ctx.search, clean, samples),
        }
        ctx.progress(len(samples))
        copies = (model.exact is not None) + (ctx.search is not None)
        passes = self.runs + len(_COMPANIES) + 2 + self.draws + copies
        return Findings(
            columns={name: _plain(column) for name, column in columns.items()},
            forwards=np.full(len(samples), passes, dtype=np.int64),
            backwards=np.zeros(len(samples), dtype=np.int64),
        )

    def _in_noise(self, clean: Tensor, model: Model, samples: Samples, ctx: Context) -> tuple[Tensor, Tensor]:
        """Return bool (N,), whether any draw changes the class, and float64 (N,), how much the margin changes."""
        flips, changes = [], []
        for part in _parts(samples, ctx.batch):
            images, scores, rng = samples.images[part], clean[part], ctx.streams(samples.ids[part], "noise")
            predicted = scores.argmax(1)
            margin = _margin(scores, predicted)
            flipped, total = torch.zeros_like(predicted, dtype=torch.bool), torch.zeros_like(margin)
            for draw in range(self.draws):
                ctx.check_time()
                noise = (rng.uniform(draw, images.shape[1:]) - 0.5) * _NOISE_WIDTH
                noisy = model.logits((images + noise).clamp(0, 1))
                flipped = flipped | (noisy.argmax(1) != predicted)
                change = (_margin(noisy, predicted) - margin).abs() / margin.abs().clamp_min(1e-30)
                total = total + change.clamp(max=1)
            flips.append(flipped)
            changes.append(total / self.draws)
        return torch.cat(flips), torch.cat(changes)


def _parts(samples: Samples, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, len(samples), size))


def _margin(scores: Tensor, labels: Tensor) -> Tensor:
    scores = scores.double()
    own = scores.gather(1, labels.unsqueeze(1)).squeeze(1)
    return own - scores.scatter(1, labels.unsqueeze(1), -torch.inf).amax(1)


def _changes(clean: Tensor, runs: int, model: Model, samples: Samples, ctx: Context) -> tuple[Tensor, Tensor]:
    """Return bool (N,) twice: whether scores, and whether labels, differ in any of `runs` runs."""
    random_score = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
    random_label = torch.zeros_like(random_score)
    for _ in range(runs - 1):
        ctx.check_time()
        again = model.logits(samples.images)
        random_score = random_score | ((_unit(again) - _unit(clean)).norm(dim=1) > _RANDOM_TOLERANCE)
        random_label = random_label | (again.argmax(1) != clean.argmax(1))
    return random_score | random_label, random_label


def _unit(scores: Tensor) -> Tensor:
    lengths = scores.double().square().sum(1, keepdim=True).sqrt()
    return scores.double() / lengths.clamp_min(1e-30)


def _depends_on_company(model: Model, samples: Samples, ctx: Context) -> Tensor:
    """Return bool (N,): whether scores alone differ from those among others, in batches of each size.

    `Model.logits` fills batches up, which would hide what is looked for; but a model that takes one size only, or whose
    rows are independent at one size above one only, is asked through it. Another order of summation is no dependence,
    and in a quantised network it can move a value by a whole step: what rounding alone does to the same images is
    allowed for.
    """
    direct = model.batching.fixed is None or (model.batching.fixed == 1 and _takes_several(model, samples.images))
    draws = ctx.streams(samples.ids, "company")
    by_rounding = _moved_by_rounding(model, samples, draws, direct)
    alone: Tensor | None = None
    differs = torch.zeros(len(samples), dtype=torch.bool, device=samples.images.device)
    for number, size in enumerate(_COMPANIES):
        ctx.check_time()
        order = draws.uniform(number, ()).argsort()
        together = _in_batches(model, samples.images[order], size, direct)[order.argsort()]
        if alone is None:
            alone = together
        floating = _ROUNDINGS * torch.finfo(together.dtype).eps
        tolerance = max(_BATCH_TOLERANCE, floating, _LIKE_ROUNDING * by_rounding)
        differs = differs | (_gap(together, alone) > tolerance)
    return differs


def _takes_several(model: Model, images: Tensor) -> bool:
    with torch.no_grad():
        try:
            return len(model.deployed(images[:2])) == len(images[:2])
        except Exception:
            return False


def _in_batches(model: Model, images: Tensor, size: int, direct: bool) -> Tensor:
    with torch.no_grad():
        return torch.cat([model.deployed(part) if direct else model.logits(part) for part in torch.split(images, size)])


def _moved_by_rounding(model: Model, samples: Samples, draws: Streams, direct: bool) -> float:
    """Return the largest relative change of the scores after a change of the images of the size of float32 rounding."""
    change = _ROUNDING * (2 * draws.uniform(len(_COMPANIES), samples.images.shape[1:]) - 1)
    shaken = (samples.images + change).clamp(0, 1)
    before, after = (_in_batches(model, images, _COMPANIES[-1], direct) for images in (samples.images, shaken))
    return float(_gap(after, before).max())


def _are_probabilities(scores: Tensor) -> Tensor:
    inside = ((scores >= -_RANGE_TOLERANCE) & (scores <= 1 + _RANGE_TOLERANCE)).all(1)
    return inside & ((scores.double().sum(1) - 1).abs() <= _SUM_TOLERANCE)


def _agreement(name: str, copy: Differentiable | None, clean: Tensor, samples: Samples) -> dict[str, Tensor]:
    there = torch.full((len(clean),), copy is not None, device=clean.device)
    scores = copy.logits(samples.images) if copy is not None else clean
    return {
        f"has_{name}": there,
        f"{name}_disagrees": scores.argmax(1) != clean.argmax(1),
        f"{name}_gap": _gap(scores, clean),
    }


def _gap(scores: Tensor, others: Tensor) -> Tensor:
    """Return float64 (N,): the largest difference of two (N, K), against the largest of the second."""
    scale = others.double().abs().amax(1).clamp_min(1e-30)
    return (scores.double() - others.double()).abs().amax(1) / scale


def _plain(column: Tensor) -> npt.NDArray[Any]:
    array = column.cpu().numpy()
    return np.round(array, _DECIMALS) if array.dtype.kind == "f" else array
