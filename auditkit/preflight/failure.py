"""Why a network did not run on the images: tries other layouts, sizes and colours until one does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from auditkit.models.loaded import Loaded
from auditkit.models.preprocess import Preprocessing
from auditkit.preflight.conventions import Layout
from auditkit.samples.base import Samples

__all__ = ["explain_failure"]

_IMAGES = 2
_USUAL_SIDES = (224, 32, 28, 64, 96, 128, 227, 256, 299, 384, 512)


@dataclass(frozen=True)
class _Attempt:
    layout: Layout | None
    """None: as configured; so for all."""
    channels: int | None
    size: tuple[int, int] | None

    @property
    def option_line(self) -> str:
        options = []
        if self.layout is not None:
            options.append(f"--layout {self.layout}")
        if self.channels is not None:
            options.append("--colour grey" if self.channels == 1 else "--colour rgb")
        if self.size is not None:
            options.append(f"--resize {self.size[0]}x{self.size[1]}")
        return " ".join(options)

    @property
    def changes(self) -> int:
        return sum(part is not None for part in (self.layout, self.channels, self.size))

    def steps(self, configured: Preprocessing) -> Preprocessing:
        return configured if self.layout is None else replace(configured, layout=self.layout)

    def images(self, images: Tensor) -> Tensor:
        if self.channels == 1:
            images = images.mean(1, keepdim=True)
        elif self.channels == 3:
            images = images.expand(-1, 3, -1, -1)
        return images if self.size is None else functional.interpolate(images, self.size, mode="bilinear")


def explain_failure(loaded: Loaded, steps: Preprocessing, samples: Samples, device: torch.device) -> str | None:
    """Return one line that names the options with which the network runs; None where no attempt did."""
    if len(samples) == 0:
        return None
    images = samples.images[:_IMAGES].to(device)
    attempts = sorted(_attempts(loaded, steps, images), key=lambda attempt: attempt.changes)
    works = next((attempt for attempt in attempts if _runs(loaded, steps, attempt, images)), None)
    if works is None:
        return None
    return f"{loaded.name} runs with {works.option_line}"


def _attempts(loaded: Loaded, steps: Preprocessing, images: Tensor) -> Iterator[_Attempt]:
    other_layout: Layout = "nchw" if steps.layout == "nhwc" else "nhwc"
    other_colour = 1 if images.shape[1] == 3 else 3
    for layout in (None, other_layout):
        stated = _stated(loaded, layout or steps.layout)
        for channels in (None, other_colour):
            if stated is not None and stated[0] not in (None, channels or images.shape[1]):
                continue
            for size in _sizes(stated, images):
                if layout or channels or size:
                    yield _Attempt(layout, channels, size)


def _stated(loaded: Loaded, layout: Layout) -> tuple[int | None, int | None, int | None] | None:
    if loaded.input_shape is None or len(loaded.input_shape) != 3:
        return None
    first, second, third = loaded.input_shape
    return (third, first, second) if layout == "nhwc" else (first, second, third)


def _sizes(
    stated: tuple[int | None, int | None, int | None] | None, images: Tensor
) -> tuple[tuple[int, int] | None, ...]:
    _, height, width = stated or (None, None, None)
    if height is None and width is None:
        return (None, *((side, side) for side in _USUAL_SIDES))
    here = (images.shape[2], images.shape[3])
    wanted = (height or width or 0, width or height or 0)
    return (None,) if here == wanted else (wanted,)


def _runs(loaded: Loaded, configured: Preprocessing, attempt: _Attempt, images: Tensor) -> bool:
    steps = attempt.steps(configured)
    fed = attempt.images(images)
    rows = loaded.fixed_batch or len(fed)
    fed = fed[torch.arange(rows, device=fed.device) % len(fed)]
    try:
        with torch.no_grad():
            scores = steps.logits(loaded.run(steps.inputs(fed)))
    except Exception:
        # A network that wants one image at a time is tried so; anything else fails again.
        return rows > 1 and loaded.fixed_batch is None and _runs(loaded, configured, attempt, images[:1])
    return scores.dim() == 2 and len(scores) == rows and bool(scores.isfinite().all())
