"""A detector of coloured squares whose answers can be worked out by hand, and scenes with such squares in them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from auditkit.samples import Objects, Samples

COLOURS = 3
SIDE = 16
STRIDE = 8
BRIGHT, DARK = 0.9, 0.05
_SLOPE, _MIDDLE = 12.0, 0.6


class SquareDetector(nn.Module):
    """Looks at windows of 16 pixels, 8 apart, and is the surer of a colour the more it sticks out from the others.

    The score of colour k is sigmoid(12 (own - others - 0.6)), own being the mean of that channel in the window and
    others the mean of the other two.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(_SLOPE))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return boxes (N, M, 4) as shares of the image, and scores (N, M, 3)."""
        means = functional.avg_pool2d(images, SIDE, STRIDE)
        others = (means.sum(1, keepdim=True) - means) / (COLOURS - 1)
        scores = (self.slope * (means - others - _MIDDLE)).sigmoid()
        n, _, rows, columns = scores.shape
        height, width = images.shape[2:]
        top = torch.arange(rows, device=images.device).float() * STRIDE
        left = torch.arange(columns, device=images.device).float() * STRIDE
        down, across = torch.meshgrid(top, left, indexing="ij")
        corners = [across / width, down / height, (across + SIDE) / width, (down + SIDE) / height]
        boxes = torch.stack(corners, 2).reshape(1, -1, 4).expand(n, -1, -1)
        return {"boxes": boxes, "scores": scores.flatten(2).transpose(1, 2)}


def toy_scenes(n: int, seed: int = 0, size: int = 64, most: int = 3) -> Samples:
    """Return n dark images with one to `most` bright squares of one colour each, none on or right beside another."""
    generator = torch.Generator().manual_seed(seed)
    images = DARK * torch.rand(n, COLOURS, size, size, generator=generator)
    objects = []
    # A dark gap between any two: a window on the seam of two squares would else be as sure as on one.
    starts = range(0, size - SIDE + 1, SIDE + STRIDE)
    slots = [(y, x) for y in starts for x in starts]
    for row in range(n):
        count = 1 + int(torch.randint(most, (1,), generator=generator))
        places = torch.randperm(len(slots), generator=generator)[:count].tolist()
        colours = torch.randint(COLOURS, (count,), generator=generator)
        boxes = []
        for place, colour in zip(places, colours.tolist(), strict=True):
            y, x = slots[place]
            images[row, colour, y : y + SIDE, x : x + SIDE] = BRIGHT
            boxes.append([x / size, y / size, (x + SIDE) / size, (y + SIDE) / size])
        crowd = torch.zeros(count, dtype=torch.bool)
        objects.append(Objects(torch.tensor(boxes), colours, crowd, (size, size)))
    labels = torch.tensor([each.main_class for each in objects])
    return Samples(images, labels, tuple(f"scene{seed}-{row}" for row in range(n)), objects=tuple(objects))
