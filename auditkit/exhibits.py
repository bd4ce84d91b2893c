"""Pictures for the gallery: the clean image, the attacked one, their difference, and where the model looks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from auditkit.check import Exhibit, Mark, Panel
from auditkit.context import Context
from auditkit.models.base import Model
from auditkit.saliency_map import saliency
from auditkit.samples import Samples

__all__ = ["EXHIBITS", "attack_exhibits", "difference_panel", "heat_panel", "image_panel", "overlay_panel"]

EXHIBITS = 8
"""How many samples a check's gallery holds."""


def image_panel(title: str, image: Tensor, marks: tuple[Mark, ...] = ()) -> Panel:
    """Return a panel of an image (C, H, W) in [0, 1], with boxes drawn on it."""
    pixels = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return Panel(title, "image", _channels_last(pixels), marks)


def heat_panel(title: str, heat: Tensor) -> Panel:
    """Return a panel of a map (H, W) of values that are not negative."""
    return Panel(title, "heat", heat.detach().float().cpu().numpy())


def overlay_panel(title: str, image: Tensor, heat: Tensor) -> Panel:
    """Return a panel of an image (C, H, W) in [0, 1] with a map (H, W) of values that are not negative laid over it."""
    return Panel(title, "overlay", _channels_last(torch.cat([image.detach().float(), heat.detach().float()[None]])))


def difference_panel(title: str, clean: Tensor, attacked: Tensor) -> Panel:
    """Return a panel of what was changed between two images (C, H, W) in [0, 1]."""
    return Panel(title, "difference", _channels_last((attacked - clean).detach().float()))


def _channels_last(image: Tensor) -> npt.NDArray[Any]:
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def attack_exhibits(
    samples: Samples, attacked: Tensor, logits: Tensor, fooled: Tensor, model: Model, ctx: Context
) -> tuple[Exhibit, ...]:
    """Return the most confidently fooled samples of `attacked` (N, C, H, W), `logits` (N, K) on it, `fooled` (N,)."""
    confidence, wrong = torch.softmax(logits.double(), 1).max(1)
    ranked = sorted(fooled.nonzero().flatten().tolist(), key=lambda row: (-float(confidence[row]), samples.ids[row]))
    rows = torch.tensor(ranked[:EXHIBITS], dtype=torch.int64, device=samples.images.device)
    if not len(rows):
        return ()
    clean_maps, attacked_maps = None, None
    if model.exact is not None:
        clean_maps = saliency(model.exact, samples.images[rows], samples.labels[rows])
        attacked_maps = saliency(model.exact, attacked[rows], wrong[rows])
    exhibits = []
    for at, row in enumerate(rows.tolist()):
        true, false = ctx.class_name(int(samples.labels[row])), ctx.class_name(int(wrong[row]))
        panels = [
            image_panel(f"clean: {true}", samples.images[row]),
            image_panel(f"attacked: {false}", attacked[row]),
            difference_panel("difference", samples.images[row], attacked[row]),
        ]
        if clean_maps is not None and attacked_maps is not None:
            panels.append(heat_panel(f"saliency for {true}, clean", clean_maps[at]))
            panels.append(heat_panel(f"saliency for {false}, attacked", attacked_maps[at]))
        caption = f"{true} is taken for {false} with {float(confidence[row]):.1%} confidence"
        exhibits.append(Exhibit(samples.ids[row], caption, float(confidence[row]), tuple(panels)))
    return tuple(exhibits)
