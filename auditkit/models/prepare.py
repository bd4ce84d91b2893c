"""Copies of the network that are cheaper to ask: for sweeps and for searches; verdicts never come from them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from auditkit.models.base import Batching, Differentiable, Model
from auditkit.models.batching import find_batching, find_gradient_batching
from auditkit.models.preprocess import copied
from auditkit.models.taps import ActivationSite, tap_activations

__all__ = [
    "Precision",
    "folded_copy",
    "folded_differentiable",
    "quick_copy",
    "search_copy",
    "search_differentiable",
    "watched_copy",
]

Precision = Literal["auto", "float32", "bfloat16", "float16"]

_TRIAL_ROWS = 32
_FIRST_ROWS = 8
_ROUNDS = 3
# A half-precision copy is kept only where it is faster by more than timings scatter, so that the choice is stable.
_WORTHWHILE = 1.3
_LABEL_AGREEMENT = 0.9
_COSINE = 0.8
# Scores in another order of summation differ by so much of the largest score.
_ROUNDING = 1e-5
_TORCH = "torch"


def folded_copy(model: Model, images: Tensor) -> Differentiable | None:
    """Return the float32 copy that the others are made from, tried on `images` (N, C, H, W); None without gradients.

    Batch norm is folded into the convolutions and channels come last wherever the copy still agrees with the model.
    """
    if model.exact is None:
        return None
    # Searches and sweeps ask for what the network returns; what it returns before its softmax would not be as fast.
    return folded_differentiable(replace(model.exact, before_softmax=None), images[:_TRIAL_ROWS].to(model.device))


def quick_copy(model: Model, folded: Differentiable | None, images: Tensor) -> Differentiable | None:
    """Return the copy that gives a torch model's scores soonest, None where it is no better than what is deployed.

    Its scores of `images` (N, C, H, W) differ from the deployed ones by rounding alone, and its labels do not.
    """
    if folded is None or model.info.provider != _TORCH:
        return None
    images = images[:_TRIAL_ROWS].to(model.device)
    deployed, scores = model.logits(images), folded.logits(images)
    rounding = _ROUNDING * deployed.abs().amax()
    if not torch.equal(deployed.argmax(1), scores.argmax(1)) or not bool((deployed - scores).abs().amax() <= rounding):
        return None
    if model.batching.fixed is not None:
        return replace(folded, batching=model.batching)
    return replace(folded, batching=_score_batching(folded, images))


def watched_copy(model: Model, folded: Differentiable | None, images: Tensor) -> Differentiable | None:
    """Return the copy that gives a network's activations soonest: they are those of `model.exact` but for rounding.

    The two are compared on `images` (N, C, H, W). None without gradients.
    """
    exact = model.exact
    if exact is None or folded is None or not model.sites:
        return exact
    images = images[:_TRIAL_ROWS].to(model.device)
    if exact.batching.fixed is not None:
        copy_ = replace(folded, batching=exact.batching)
    else:
        copy_ = model.quick or replace(folded, batching=_score_batching(folded, images))
    return copy_ if _same_activations(exact, copy_, model.sites, images) else exact


def _score_batching(copy_: Differentiable, images: Tensor) -> Batching:
    compute = replace(copy_, batching=Batching(minimum=1), batch=max(copy_.batch, len(images)))
    return find_batching(compute.logits, images, copy_.batch)


def _same_activations(
    exact: Differentiable, other: Differentiable, sites: Sequence[ActivationSite], images: Tensor
) -> bool:
    seen: list[Tensor] = []
    different: list[bool] = []

    def compare(site: int, activations: Tensor, rows: int) -> None:
        wanted, got = seen[len(different)], activations[:rows]
        rounding = _ROUNDING * wanted.abs().amax()
        different.append(wanted.shape != got.shape or not bool((wanted - got).abs().amax() <= rounding))

    try:
        tap_activations(exact, sites, images, lambda site, values, rows: seen.append(values[:rows].clone()))
        tap_activations(other, sites, images, compare)
    except Exception:
        return False
    return len(different) == len(seen) and not any(different)


def search_copy(
    model: Model, folded: Differentiable | None, images: Tensor, precision: Precision = "auto"
) -> Differentiable | None:
    """Return the copy to search with, chosen by a short trial on `images` (N, C, H, W); None without gradients.

    Half precision is taken where it is clearly faster on this machine and its labels and gradients agree; else it is
    the folded copy.
    """
    if model.exact is None or folded is None:
        return None
    return search_differentiable(model.exact, folded, images[:_TRIAL_ROWS].to(model.device), precision)


def search_differentiable(
    exact: Differentiable, folded: Differentiable, images: Tensor, precision: Precision
) -> Differentiable:
    """Return the fastest copy whose scores (N, ...) and gradients at `images` (N, C, H, W) agree with those of `exact`.

    It is `folded`, or that in half precision.
    """
    best = folded
    for dtype in _half_precisions(precision, images.device):
        half = _in_half(best, dtype)
        if half is None or not _agrees(exact, half, images[:_FIRST_ROWS]):
            continue
        if precision != "auto" or (_is_faster(best, half, images) and _agrees(exact, half, images)):
            best = half
            break
    batching = exact.batching
    return replace(best, batching=batching if batching.fixed == 1 else find_gradient_batching(best, images))


def _top_score(logits: Tensor) -> Tensor:
    return logits.amax(1)


def _half_precisions(precision: Precision, device: torch.device) -> tuple[torch.dtype, ...]:
    match precision:
        case "float32":
            return ()
        case "bfloat16":
            return (torch.bfloat16,)
        case "float16":
            return (torch.float16,)
        case _:
            return (torch.bfloat16, torch.float16) if device.type == "cuda" else (torch.bfloat16,)


def folded_differentiable(exact: Differentiable, images: Tensor) -> Differentiable:
    """Return a copy with batch norm folded and channels last, as far as it agrees with `exact` on `images`."""
    best = exact
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Importing it warns, too: of torch's own use of what torch no longer wants used.
            from torch.fx.experimental.optimization import fuse

            folded = copied(exact.network)
            folded.network = fuse(folded.network).requires_grad_(False)
        candidate = replace(exact, network=folded, description="float32, batch norm folded")
        if _agrees(exact, candidate, images):
            best = candidate
    except Exception:
        best = exact
    try:
        last = copied(best.network)
        candidate = replace(
            best,
            network=last.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            memory_format=torch.channels_last,
            description=best.description + ", channels last",
        )
        if _agrees(exact, candidate, images):
            best = candidate
    except Exception:
        return best
    return best


def _in_half(base: Differentiable, dtype: torch.dtype) -> Differentiable | None:
    name = str(dtype).removeprefix("torch.")
    try:
        network = copied(base.network).to(dtype)
    except Exception:
        return None
    return replace(base, network=network, dtype=dtype, description=base.description.replace("float32", name))


def _agrees(exact: Differentiable, copy_: Differentiable, images: Tensor) -> bool:
    """Tell whether labels and gradient directions of the copy are close enough to search with."""
    try:
        logits, gradient = exact.gradient(images, _top_score)
        other_logits, other_gradient = copy_.gradient(images, _top_score)
    except Exception:
        return False
    if not (other_logits.isfinite().all() and other_gradient.isfinite().all()):
        return False
    labels = (logits.argmax(1) == other_logits.argmax(1)).float().mean()
    cosine = functional.cosine_similarity(gradient.flatten(1), other_gradient.flatten(1)).median()
    return bool(labels >= _LABEL_AGREEMENT) and bool(cosine >= _COSINE)


def _is_faster(base: Differentiable, candidate: Differentiable, images: Tensor) -> bool:
    # Without hardware for it, half precision can be a hundred times slower: a few rows show that cheaply.
    few = images[:_FIRST_ROWS]
    if _seconds(candidate, few, 1) > 3 * _seconds(base, few, 1):
        return False
    return _seconds(candidate, images, _ROUNDS) * _WORTHWHILE < _seconds(base, images, _ROUNDS)


def _seconds(differentiable: Differentiable, images: Tensor, rounds: int) -> float:
    """Return the least time of one forward and backward pass over `images`."""
    least = float("inf")
    for _ in range(rounds):
        _wait(images.device)
        begin = time.perf_counter()
        differentiable.gradient(images, _top_score)
        _wait(images.device)
        least = min(least, time.perf_counter() - begin)
    return least


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
