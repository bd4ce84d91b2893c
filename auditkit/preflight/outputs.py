"""Whether the network's outputs are logits, and whether they still tell likely classes apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from auditkit.models.preprocess import Preprocessing
from auditkit.preflight.diagnosis import Diagnosis, Remedy, info, warning
from auditkit.preflight.options import option_line

__all__ = ["kind_diagnoses", "right_outputs", "saturation_diagnoses"]

_SUM_TOLERANCE = 1e-3
_SATURATED = 0.1
# Softmax in float32 is 1.0 from a margin of about 17; no usual training leads to a typical margin of 100.
_HUGE_MARGIN = 100.0


def _are_probabilities(outputs: Tensor) -> bool:
    """Return whether all rows of (N, K) are distributions over at least two classes."""
    if outputs.shape[1] < 2:
        return False
    low, high = (float(bound) for bound in outputs.aminmax())
    sums = outputs.double().sum(1)
    return low >= 0.0 and high <= 1.0 and bool(((sums - 1).abs() <= _SUM_TOLERANCE).all())


def right_outputs(steps: Preprocessing, outputs: Tensor) -> Preprocessing:
    """Return the steps with `outputs` set to what the network's raw outputs (N, K) are; labels stay labels."""
    if steps.outputs == "labels":
        return steps
    return replace(steps, outputs="probabilities" if _are_probabilities(outputs) else "logits")


def kind_diagnoses(steps: Preprocessing, outputs: Tensor, label_offset: int) -> Iterator[Diagnosis]:
    """Warn of wrong `--outputs` for what the network returned, (N, K)."""
    right = right_outputs(steps, outputs)
    if right != steps:
        yield _wrong_kind(right, outputs, label_offset)


def _wrong_kind(right: Preprocessing, outputs: Tensor, label_offset: int) -> Diagnosis:
    n, option = len(outputs), f"--outputs {right.outputs}"
    low, high = (float(bound) for bound in outputs.aminmax())
    if right.outputs == "probabilities":
        text = (
            f"The network returns probabilities: for all {n} images its outputs lie in [0, 1] and sum to 1. "
            "Attacks that take them for logits see gradients that are far too small."
        )
    else:
        text = (
            f"--outputs probabilities was given, but the outputs for {n} images, {low:.4g} to {high:.4g}, "
            "are none; their logarithm is not a score."
        )
    return warning("softmax", text, f"use {option}", Remedy(option_line(right, label_offset), right))


def saturation_diagnoses(outputs: Tensor, *, logits_behind_softmax: bool) -> Iterator[Diagnosis]:
    """Report top probabilities of exactly 1.

    Args:
        outputs: (N, K), what the network returned.
        logits_behind_softmax: The logits can be had although the network ends in a softmax.
    """
    if outputs.shape[1] < 2:
        return
    probabilities = _are_probabilities(outputs)
    chances = outputs if probabilities else outputs.float().softmax(1)
    full = float((chances.amax(1) == 1.0).float().mean())
    if full < _SATURATED:
        return
    text = f"The top probability is exactly 1 in float32 for {full:.1%} of {len(outputs)} images"
    first, second = outputs.topk(2, dim=1).values.unbind(1)
    margin = float((first - second).median())
    if probabilities and not logits_behind_softmax:
        yield warning(
            "saturated",
            f"{text}; the scores behind it are lost, and so are gradients there.",
            "export the network without its softmax, so that it returns logits",
        )
    elif not probabilities and margin > _HUGE_MARGIN:
        yield warning(
            "saturated",
            f"{text}, and the two best scores typically lie {margin:.4g} apart: they are scaled up, which "
            "stops the gradient of the cross-entropy without making the network any more robust.",
            "export the network without the scaling, or trust attacks on the margin alone",
        )
    else:
        yield info("saturated", f"{text}: the cross-entropy has no gradient there, the margin has.")
