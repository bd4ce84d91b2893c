"""The cover sweep: the scores of every image under every window, computed once for all who ask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from auditkit.artifacts import Artifact
from auditkit.covers.fills import Fill, Filling, filling
from auditkit.covers.locality import Locality, find_locality
from auditkit.covers.windows import Windows
from auditkit.errors import ExecutionError
from auditkit.models.base import Model
from auditkit.samples import Samples

__all__ = ["QUICK_LOGITS", "CoverSweep", "cover_sweep"]

Scores = Callable[[Tensor], Tensor]

# A batch of this many bytes of images, with what a network makes of it, stays in a processor's cache.
_CACHED_BYTES = 1_600_000
_LEAST_ROWS = 16
# So many bytes of images are swept together, for what the first layers make of them is kept meanwhile.
_GROUP_BYTES = 2_500_000


def cover_sweep(
    scores: Scores,
    images: Tensor,
    windows: Windows,
    filled: Filling,
    batch: int,
    pause: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return float32 (N, K, classes): the scores of each image (N, C, H, W) with each window covered.

    Every pair of an image and a window is one row of a batch of `batch`, whatever their numbers, and no more than one
    batch of covered images exists at a time. `scores` takes (B, C, H, W) to (B, classes) and keeps rows independent,
    as the methods of a model do. `pause` is called before each batch.

    Raises:
        ExecutionError: the windows are those of images of another size.
    """

    def sweep(part: Tensor) -> Tensor:
        answers = []
        for covered in _covered(part, windows, filled(part).expand_as(part), batch):
            pause()
            answers.append(scores(covered))
        return torch.cat(answers)

    return _by_image(sweep, images, windows, batch)


def _local_sweep(
    local: Locality, images: Tensor, windows: Windows, filled: Filling, batch: int, pause: Callable[[], None]
) -> Tensor:
    """Return what `cover_sweep` does, from layers that are computed near the windows alone."""
    quick = replace(local.quick, batch=batch)

    def sweep(part: Tensor) -> Tensor:
        answers = local.answers(part, filled(part).expand_as(part))

        def compute(rows: Tensor) -> Tensor:
            pause()
            return answers(rows)

        return quick.in_batches(compute, torch.arange(len(part) * len(windows), device=images.device))

    together = max(1, _GROUP_BYTES // (images[0].numel() * images.element_size()))
    return _by_image(sweep, images, windows, quick.batching.chunk(min(batch, together)))


def _by_image(sweep: Scores, images: Tensor, windows: Windows, together: int) -> Tensor:
    """Return (N, K, classes) from a function that takes some images to (K * n, classes), window by window."""
    wanted, got = (windows.image_height, windows.image_width), tuple(images.shape[2:])
    if wanted != got:
        raise ExecutionError(f"these windows cover images of {_times(wanted)} pixels; got images of {_times(got)}")
    with torch.no_grad():
        parts = [images[start : start + together] for start in range(0, len(images), together)]
        swept = [sweep(part).view(len(windows), len(part), -1).transpose(0, 1) for part in parts]
        return torch.cat(swept)


def _times(size: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in size)


def _covered(images: Tensor, windows: Windows, fill: Tensor, batch: int) -> Iterator[Tensor]:
    """Yield the images under the first window, then all under the second, and so on, in batches."""
    n, corners = len(images), windows.corners
    for start in range(0, n * len(windows), batch):
        stop = min(start + batch, n * len(windows))
        covered = images[torch.arange(start, stop, device=images.device) % n]
        # All rows under the same window are covered by one copy of that part of the fill.
        for window in range(start // n, (stop - 1) // n + 1):
            first, last = max(window * n, start), min((window + 1) * n, stop)
            top, left = corners[window]
            down, across = slice(top, top + windows.height), slice(left, left + windows.width)
            part = fill[first - window * n : last - window * n, :, down, across]
            covered[first - start : last - start, :, down, across] = part
        yield covered


@dataclass(frozen=True)
class CoverSweep:
    """A recipe: `cover_sweep` of the samples by the model's quick scores, the same for all who want it alike.

    `ctx.shelf.get(CoverSweep(windows).artifact)` gives float32 (N, K, classes).
    """

    windows: Windows
    fill: Fill = "mean"
    pause: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)
    """Called before each batch: `ctx.check_time`, so that a long sweep ends at the time limit of who asked first."""

    @property
    def artifact(self) -> Artifact[Tensor]:
        """The recipe for the shelf."""
        return Artifact("covers.sweep", self)

    def __call__(self, model: Model, samples: Samples) -> Tensor:
        """Sweep a shard."""
        images, filled = samples.images, filling(self.fill, self.windows)
        if not len(images):
            return torch.empty(0, len(self.windows), model.info.classes, device=images.device)
        batch = sweep_batch(images, model.batch)
        local = find_locality(model.quick, self.windows)
        if local is None:
            return cover_sweep(model.quick_logits, images, self.windows, filled, batch, self.pause)
        swept = _local_sweep(local, images, self.windows, filled, batch, self.pause)
        return model.scores(swept.flatten(0, 1)).view_as(swept)


def sweep_batch(images: Tensor, batch: int) -> int:
    """Return how many covered images (C, H, W) to look at at once, at most `batch`."""
    if images.device.type != "cpu" or not len(images):
        return batch
    rows = _CACHED_BYTES // (images[0].numel() * images.element_size())
    return min(batch, max(_LEAST_ROWS, rows // _LEAST_ROWS * _LEAST_ROWS))


QUICK_LOGITS = Artifact("clean.quick_logits", lambda model, samples: model.quick_logits(samples.images))
"""The quick scores, float32 (N, K), on the unperturbed images: what those of a cover sweep are compared with."""
