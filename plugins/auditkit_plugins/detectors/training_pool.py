"""The images that textures are learned from: the training images, and more that are made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from auditkit import Context, Detections, Detector, Samples

__all__ = ["Pool", "training_pool"]

_FEWEST = 192
_SMALLEST_CROP = 0.5
_CONTRAST, _BRIGHTNESS = 0.2, 0.1
_NUMBERS = 6


@dataclass(frozen=True)
class Pool:
    """P images, and what the deployed detector reports in them: with so few images, not what was annotated."""

    images: Tensor
    """float32 (P, C, H, W)."""
    found: Detections
    """Only what is at least as sure as what counts as found."""

    def __len__(self) -> int:
        return len(self.images)


def training_pool(detector: Detector, samples: Samples, ctx: Context) -> Pool:
    """Return the samples, in the order of their names, and crops of them, up to about 200 images."""
    order = sorted(range(len(samples)), key=samples.ids.__getitem__)
    samples = samples.take(order)
    images = [samples.images]
    rounds = -(-_FEWEST // max(len(samples), 1)) - 1
    for number in range(rounds):
        ctx.check_time()
        draws = ctx.streams(samples.ids, "training pool").uniform(number, (_NUMBERS,)).cpu()
        images.append(torch.stack([_varied(*pair) for pair in zip(samples.images, draws.tolist(), strict=True)]))
    pool = torch.cat(images)
    return Pool(pool, detector.detect(pool).at_least(detector.score))


def _varied(image: Tensor, draws: Sequence[float]) -> Tensor:
    """Return a crop of an image (C, H, W) enlarged to its size, perhaps mirrored, in another light."""
    _, height, width = image.shape
    share = _SMALLEST_CROP + (1 - _SMALLEST_CROP) * draws[0]
    high, wide = max(1, int(share * height)), max(1, int(share * width))
    top, left = int(draws[1] * (height - high + 1)), int(draws[2] * (width - wide + 1))
    crop = image[None, :, top : top + high, left : left + wide]
    enlarged = functional.interpolate(crop, (height, width), mode="bilinear", align_corners=False)[0]
    mirrored = enlarged.flip(2) if draws[3] < 0.5 else enlarged
    contrast, brightness = 1 + (2 * draws[4] - 1) * _CONTRAST, (2 * draws[5] - 1) * _BRIGHTNESS
    return ((mirrored - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)
