"""From what a campaign of attacks found to per-sample columns and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from auditkit.artifacts import CLEAN_LOGITS
from auditkit.budgets import budget_text
from auditkit.campaign import Trail
from auditkit.check import Findings
from auditkit.context import Context
from auditkit.exhibits import attack_exhibits
from auditkit.models.base import Model
from auditkit.origin import Origin, object_masks
from auditkit.samples import Samples
from auditkit.stored import as_8bit, as_16bit, as_jpeg
from auditkit.threat import Norm, allowed

__all__ = ["attack_findings"]

# What cameras and web sites write when they are not asked for more.
_JPEG_QUALITY = 90
# Of a confidence; the last bits of logits may depend on the batch.
_DIGITS = 5


class _Bounded(Protocol):
    eps: tuple[float, ...]

    @property
    def marks(self) -> tuple[str, ...]: ...

    @property
    def norm(self) -> Norm: ...

    def control(self, origin: Origin) -> Tensor | None: ...


def attack_findings(
    attack: _Bounded, trails: Mapping[int, Trail], samples: Samples, correct: Tensor, model: Model, ctx: Context
) -> Findings:
    """Return the findings of `attack`: `trails` of the samples that are `correct`, bool (N,), when clean."""
    n = len(samples)
    clean_correct = correct.cpu().numpy()
    fooled_from = np.full(n, len(attack.eps))
    steps, away = np.full(n, np.nan), np.full(n, np.nan)
    found_by = np.full(n, -1)
    marks = np.full((n, len(attack.marks)), np.nan)
    attacked = samples.images.clone()
    logits = ctx.shelf.get(CLEAN_LOGITS).clone()
    for row, trail in trails.items():
        fooled_from[row], found_by[row] = trail.fooled_from, trail.attack
        if trail.best is not None:
            attacked[row], logits[row] = trail.best.image, trail.best.logits
            steps[row], away[row] = trail.steps_to_best, trail.best.distance
            marks[row] = trail.best.marks
    found = found_by >= 0
    fooled = clean_correct & (fooled_from < len(attack.eps))
    columns: dict[str, np.ndarray[Any, Any]] = {
        "clean_correct": clean_correct,
        "robust": clean_correct & ~fooled,
        "fooled": fooled,
        "found": found,
        "distance": away,
        "steps": steps,
        "attack": found_by,
        "attacked_label": logits.argmax(1).cpu().numpy(),
        "attacked_confidence": torch.softmax(logits.double(), 1).amax(1).cpu().numpy().round(_DIGITS),
    }
    columns |= {name: marks[:, at] for at, name in enumerate(attack.marks)}
    for index, eps in enumerate(attack.eps):
        by_now = clean_correct & (fooled_from <= index)
        columns[f"robust@{budget_text(eps)}"] = clean_correct & ~by_now
        columns[f"fooled@{budget_text(eps)}"] = by_now
    for name in ("overstepped", "refuted"):
        columns[name] = _account(trails, n, name)
    columns |= _survival(model, samples, attacked, fooled)
    columns |= _by_chance(attack, samples, correct, model, ctx)
    return Findings(
        columns,
        attack_exhibits(samples, attacked, logits, torch.from_numpy(found), model, ctx),
        forwards=_account(trails, n, "forwards") + 1 + 2 * fooled,
        backwards=_account(trails, n, "backwards"),
        attacked=as_16bit(attacked[torch.from_numpy(found).to(attacked.device)]),
    )


def _survival(
    model: Model, samples: Samples, attacked: Tensor, fooled: np.ndarray[Any, np.dtype[np.bool_]]
) -> dict[str, np.ndarray[Any, Any]]:
    """Return which successes are none any more once the attacked image was stored in a file."""
    rows = torch.from_numpy(fooled.nonzero()[0]).to(attacked.device)
    columns = {}
    stored = (("lost_to_rounding", as_8bit), ("lost_to_jpeg", partial(as_jpeg, quality=_JPEG_QUALITY)))
    for name, store in stored:
        lost = torch.zeros(len(fooled), dtype=torch.bool)
        if len(rows):
            logits = model.logits(store(attacked[rows]))
            lost[rows.cpu()] = (logits.argmax(1) == samples.labels[rows]).cpu()
        columns[name] = lost.numpy()
    return columns


def _by_chance(
    attack: _Bounded, samples: Samples, correct: Tensor, model: Model, ctx: Context
) -> dict[str, np.ndarray[Any, Any]]:
    """Return which samples are fooled by mere chance at the largest budget; nothing where the attack has no control."""
    eps = torch.full((len(samples),), attack.eps[-1], dtype=samples.images.dtype, device=samples.images.device)
    changed = attack.control(
        Origin(
            images=samples.images.clone(),
            labels=samples.labels,
            eps=eps,
            restart=torch.zeros_like(samples.labels),
            logits=ctx.shelf.get(CLEAN_LOGITS),
            points=samples.images,
            masks=object_masks(samples),
            warm=torch.zeros_like(samples.labels, dtype=torch.bool),
            rng=ctx.streams(samples.ids, "control"),
        )
    )
    if changed is None:
        return {}
    wrong = model.logits(changed).argmax(1) != samples.labels
    counts = correct & wrong & allowed(attack.norm, eps, samples.images, changed)
    return {"fooled_by_chance": counts.cpu().numpy()}


def _account(trails: Mapping[int, Trail], n: int, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([getattr(trails[row], name) if row in trails else 0 for row in range(n)], dtype=np.int64)
