"""Recipes on their way to other processes."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

from torch import nn

from auditkit.errors import UsageError
from auditkit.workbench import Recipe, Workbench

__all__ = ["is_portable", "portable"]


def is_portable(recipe: Recipe) -> bool:
    """Return whether another process can make a workbench from it: model and data are named, not given."""
    given = recipe.data, recipe.settings.ood, recipe.settings.decode
    if isinstance(recipe.model, nn.Module) or not all(isinstance(each, str | Path | None) for each in given):
        return False
    try:
        pickle.dumps(recipe)
    except Exception:  # an option of a check may be anything
        return False
    return True


def portable(bench: Workbench, device: str) -> bytes:
    """Return the recipe of a workbench, pickled, with its choices made, for a `device` as another process calls it.

    Raises:
        UsageError: it has objects in it that live in this process only.
    """
    recipe = bench.recipe
    if not is_portable(recipe):
        raise UsageError(
            "worker processes need a model and data given by path or module:factory; with objects in memory use "
            "workers=0 and executor=local"
        )
    chosen = {
        "precision": str(bench.search.dtype).removeprefix("torch.") if bench.search is not None else "float32",
        "device": device,
    }
    return pickle.dumps(replace(recipe, settings=recipe.settings.model_copy(update=chosen)))
