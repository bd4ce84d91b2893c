"""The annotated objects of an image: what a detector should find there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from auditkit.errors import ExecutionError

__all__ = ["Objects"]


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects that somebody annotated in one image.

    Attributes:
        boxes: float32 (K, 4), left, top, right, bottom as shares of the image's width and height, inside the image.
        classes: int64 (K,), class indices from 0.
        crowd: bool (K,), whether the box is around many objects, none of which has a box of its own.
        size: Height and width of the image as its file has it, in pixels: how large two boxes' overlap is depends on
            their ratio.

    Raises:
        ExecutionError: A shape, dtype or value is not as stated.
    """

    boxes: Tensor
    classes: Tensor
    crowd: Tensor
    size: tuple[int, int]

    def __post_init__(self) -> None:
        n = len(self.boxes)
        for name, tensor, dtype, shape in (
            ("boxes", self.boxes, torch.float32, (n, 4)),
            ("classes", self.classes, torch.int64, (n,)),
            ("crowd", self.crowd, torch.bool, (n,)),
        ):
            if tensor.dtype != dtype or tensor.shape != shape:
                got = f"{tensor.dtype} {tuple(tensor.shape)}"
                raise ExecutionError(f"objects: {name}: wanted {dtype} {shape}, got {got}")
        if not n:
            return
        low, high = self.boxes[:, :2], self.boxes[:, 2:]
        if not bool(((low >= 0) & (low < high) & (high <= 1)).all()):
            raise ExecutionError("objects: a box is empty or lies outside its image; wanted 0 <= left < right <= 1")
        if int(self.classes.min()) < 0:
            raise ExecutionError(f"objects: class {int(self.classes.min())} is negative")

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device | str) -> Objects:
        """Return the same objects with all tensors on `device`."""
        return Objects(self.boxes.to(device), self.classes.to(device), self.crowd.to(device), self.size)

    def shifted(self, offset: int) -> Objects:
        """Return the same objects with `offset` added to their classes."""
        return Objects(self.boxes, self.classes + offset, self.crowd, self.size)

    @property
    def main_class(self) -> int:
        """The class of the largest object that is no crowd; 0 where there is none."""
        single = (~self.crowd).nonzero().flatten()
        if not len(single):
            return 0
        boxes = self.boxes[single]
        return int(self.classes[single[((boxes[:, 2:] - boxes[:, :2]).prod(1)).argmax()]])

    def digest_bytes(self) -> bytes:
        """Return bytes that are the same for the same objects alone."""
        parts = (self.boxes, self.classes, self.crowd)
        return str((len(self), *self.size)).encode() + b"".join(
            part.cpu().contiguous().numpy().tobytes() for part in parts
        )
