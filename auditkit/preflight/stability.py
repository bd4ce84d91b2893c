"""Whether an image's scores depend on the run, or on the images beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from auditkit.models.base import Model
from auditkit.models.loaded import Loaded
from auditkit.models.preprocess import Preprocessing
from auditkit.preflight.diagnosis import Diagnosis, info, warning
from auditkit.preflight.trial import with_steps

__all__ = ["batch_diagnoses", "stability_diagnoses"]

_ROWS = 32
_RUNS = 5
_ALONE = 4
_TOLERANCE = 1e-4


def stability_diagnoses(loaded: Loaded, steps: Preprocessing, model: Model, images: Tensor) -> Iterator[Diagnosis]:
    """Warn of randomness, or else of batch mates that matter; images (N, C, H, W) in [0, 1]."""
    raw = with_steps(loaded, model, replace(steps, outputs="logits"))
    rows = images[:_ROWS]
    first = raw.logits(rows)
    changes = max(_difference(first, raw.logits(rows)) for _ in range(_RUNS - 1))
    if changes > _TOLERANCE:
        yield _random(loaded, changes, len(rows))
        return
    # A lone row is filled up with copies of itself, so it has other company than it had in the batch.
    alone = torch.cat([raw.logits(rows[at : at + 1]) for at in range(min(_ALONE, len(rows)))])
    changes = _difference(first[: len(alone)], alone)
    if changes > _TOLERANCE:
        yield _batch_dependent(loaded, changes, len(alone))


def batch_diagnoses(loaded: Loaded, model: Model) -> Iterator[Diagnosis]:
    """Inform of a batch size that the graph or its kernels ask for."""
    fixed = model.batching.fixed
    if loaded.fixed_batch is not None:
        yield info(
            "batch_size",
            f"The graph takes batches of {loaded.fixed_batch} and no other; smaller ones are filled up, "
            "which costs time.",
            "export with a dynamic batch size",
        )
    elif fixed == 1:
        yield info(
            "batch_size",
            "The network takes one image at a time, which costs time.",
            "make it take any number of images",
        )
    elif fixed is not None:
        yield info(
            "batch_size",
            "A row's scores change with the size of the batch, if only in the last digits; "
            f"all batches have {fixed} rows.",
        )
    elif (copies := model.batching.copies) > 1:
        yield info(
            "batch_size",
            "A row's scores change with its place in the batch, if only in the last digits; "
            f"each image is computed {copies} times, which costs time.",
            "give the layers a multiple of four inputs",
        )


def _difference(scores: Tensor, other: Tensor) -> float:
    """Return the largest difference of two (N, K), each row against its own largest score."""
    scale = scores.abs().amax(1, keepdim=True).clamp_min(torch.finfo(scores.dtype).tiny)
    return float(((scores - other).abs() / scale).nan_to_num(nan=0.0).max())


def _evaluates(loaded: Loaded) -> bool:
    """Return whether the network is known to be in evaluation mode; of exported graphs it is not."""
    network = loaded.network
    return loaded.format == "torch" and network is not None and not any(module.training for module in network.modules())


def _random(loaded: Loaded, changes: float, n: int) -> Diagnosis:
    text = (
        f"The same {n} images got other scores when they were run again ({_RUNS} runs, differences up to "
        f"{changes:.2g} of a row's largest score). Attacks and verdicts meet a different network each time."
    )
    if _evaluates(loaded):
        text += " The network is in evaluation mode, so it is random by design."
        return warning(
            "random",
            text,
            "audit it with the randomness off, or average its scores over several draws inside the network",
        )
    return warning(
        "random",
        f"{text} The usual cause is dropout in a network in training mode, or exported in it.",
        "call model.eval() (and export again); if it is random by design, average over draws inside it",
    )


def _batch_dependent(loaded: Loaded, changes: float, n: int) -> Diagnosis:
    text = (
        f"{n} images got other scores alone than beside other images (differences up to {changes:.2g} of a "
        "row's largest score), so that one image's verdict depends on its neighbours."
    )
    if _evaluates(loaded):
        return warning(
            "batch_dependent",
            f"{text} The network is in evaluation mode, so it mixes the rows of a batch by design.",
            "give batch norms running statistics (track_running_stats=True), and mix no rows",
        )
    return warning(
        "batch_dependent",
        f"{text} The usual cause is batch norm in a network in training mode, or exported in it.",
        "call model.eval() (and export again)",
    )
