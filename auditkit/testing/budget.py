"""Whether an attack keeps to its budget at every step, in what it asks about as in where it stands."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from auditkit.attack import Attack
from auditkit.models.base import Model
from auditkit.origin import Origin
from auditkit.queries import Queries
from auditkit.samples import Samples
from auditkit.testing.holding import hold
from auditkit.testing.toys import toy_origin
from auditkit.threat import allowed

__all__ = ["hold_budget"]


class _Watched(Queries):
    """Queries that hold every image asked about to the budget, also one that fools nobody."""

    def _note(self, images: Tensor, scores: Tensor, marks: Tensor | None = None, worth: Tensor | None = None) -> None:
        each = len(images) // len(self._clean)
        clean = self._clean.repeat_interleave(each, 0)
        inside = allowed(self._norm, self._eps.repeat_interleave(each), clean, images)
        hold(bool(inside.all()), f"the attack asked about {int((~inside).sum())} images outside its budget")
        super()._note(images, scores, marks, worth)


def hold_budget(attack: Attack, model: Model, samples: Samples) -> None:
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
        hold(bool(inside.all()), "the attack's state holds images outside its budget")
    ended: Tensor = state.images.clone()
    return ended
