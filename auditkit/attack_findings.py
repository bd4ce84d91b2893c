"""From what a campaign of attacks found to per-sample columns and pictures."""

from __future__ import annotations

from collections.abc import Mapping
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
from auditkit.samples import Samples
from auditkit.threat import Norm

__all__ = ["attack_findings"]


class _Bounded(Protocol):
    eps: tuple[float, ...]

    @property
    def norm(self) -> Norm: ...


def attack_findings(
    attack: _Bounded, trails: Mapping[int, Trail], samples: Samples, correct: Tensor, model: Model, ctx: Context
) -> Findings:
    """Return the findings of `attack`: `trails` of the samples that are `correct`, bool (N,), when clean."""
    n = len(samples)
    clean_correct = correct.cpu().numpy()
    fooled_from = np.full(n, len(attack.eps))
    steps, away = np.full(n, np.nan), np.full(n, np.nan)
    found_by = np.full(n, -1)
    attacked = samples.images.clone()
    logits = ctx.shelf.get(CLEAN_LOGITS).clone()
    for row, trail in trails.items():
        fooled_from[row], found_by[row] = trail.fooled_from, trail.attack
        if trail.best is not None:
            attacked[row], logits[row] = trail.best.image, trail.best.logits
            steps[row], away[row] = trail.steps_to_best, trail.best.distance
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
    }
    for index, eps in enumerate(attack.eps):
        by_now = clean_correct & (fooled_from <= index)
        columns[f"robust@{budget_text(eps)}"] = clean_correct & ~by_now
        columns[f"fooled@{budget_text(eps)}"] = by_now
    for name in ("overstepped", "refuted"):
        columns[name] = _account(trails, n, name)
    return Findings(
        columns,
        attack_exhibits(samples, attacked, logits, torch.from_numpy(found), model, ctx),
        forwards=_account(trails, n, "forwards") + 1,
        backwards=_account(trails, n, "backwards"),
    )


def _account(trails: Mapping[int, Trail], n: int, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([getattr(trails[row], name) if row in trails else 0 for row in range(n)], dtype=np.int64)
