"""From whatever a detector returns to candidates: the usual forms, or a small function of the user's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from auditkit.errors import ExecutionError
from auditkit.objects.detections import pack

__all__ = ["BoxUnits", "Decoder"]

BoxUnits = Literal["shares", "pixels"]
_BOXES, _SCORES, _CLASSES = ("boxes", "box"), ("scores", "score", "conf", "confidence"), ("labels", "classes", "label")
_END_TO_END = 6
_WANTED = (
    "a detector returns boxes, scores and classes (three tensors, or a mapping with boxes, scores and labels), a list "
    "of such mappings, or (images, boxes, 6) numbers; for any other form name a function with --decode path.py:decode"
)


@dataclass(frozen=True)
class Decoder:
    """How to read what a network returns for a batch of images."""

    classes: int
    units: BoxUnits
    decode: Callable[[Any], Any] | None = None
    """What makes one of the usual forms of the network's own."""
    names: tuple[str, ...] = ()
    """What the network's outputs are called, where it returns several and they have names."""

    def __call__(self, output: Any, size: tuple[int, int]) -> Tensor:
        """Return float32 (N, M, 4 + K), see `Candidates`, for images of this height and width.

        Raises:
            ExecutionError: the output has none of the known forms.
        """
        boxes, scores = self.read(output)
        if self.units == "pixels":
            height, width = size
            boxes = boxes / boxes.new_tensor([width, height, width, height])
        return pack(boxes, scores)

    def read(self, output: Any) -> tuple[Tensor, Tensor]:
        """Return boxes (N, M, 4) in the network's own units, and scores (N, M, K).

        Raises:
            ExecutionError: the output has none of the known forms.
        """
        if self.decode is not None:
            output = _decoded(self.decode, output)
        elif isinstance(output, tuple | list) and len(output) == len(self.names):
            output = dict(zip(self.names, output, strict=True))
        return self._scored(*_parts(output))

    def has_scores_of_all(self, output: Any) -> bool:
        """Return whether an output has a score for each class of each box: then boxes lie on each other."""
        return self.decode is not None or _parts(output)[2] is None

    def _scored(self, boxes: Tensor, scores: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
        if boxes.dim() != 3 or boxes.shape[2] != 4:
            raise ExecutionError(f"boxes are (images, boxes, 4) numbers; got {tuple(boxes.shape)}")
        rows = tuple(boxes.shape[:2])
        if classes is None:
            if scores.dim() != 3 or tuple(scores.shape[:2]) != rows:
                raise ExecutionError(
                    f"scores without classes are (images, boxes, classes) numbers, here ({rows[0]}, {rows[1]}, ...); "
                    f"got {tuple(scores.shape)}"
                )
            return boxes, scores
        if tuple(scores.shape) != rows or tuple(classes.shape) != rows:
            got = f"{tuple(scores.shape)} and {tuple(classes.shape)}"
            raise ExecutionError(f"scores and classes are one number a box, here {rows}; got {got}")
        classes = classes.long()
        if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < self.classes:
            raise ExecutionError(
                f"the detector named class {int(classes.max())}, and there are classes 0 to {self.classes - 1}; "
                "--classes says how many there are"
            )
        spread = scores.new_zeros(*rows, self.classes).scatter(2, classes.unsqueeze(2), scores.unsqueeze(2))
        return boxes, spread


def _decoded(decode: Callable[[Any], Any], output: Any) -> Any:
    try:
        return decode(output)
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise ExecutionError(f"--decode failed: {type(error).__name__}: {lines[0] if lines else ''}") from error


def _parts(output: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return boxes, scores, and classes (None where scores has one for each class)."""
    if isinstance(output, Mapping):
        return _of_mapping(output)
    if isinstance(output, list) and all(isinstance(each, Mapping) for each in output):
        return _of_images(output)
    if isinstance(output, Tensor):
        if output.dim() == 3 and output.shape[2] == _END_TO_END:
            return output[..., :4], output[..., 4], output[..., 5]
        raise ExecutionError(f"{_WANTED}; got one tensor {tuple(output.shape)}")
    if isinstance(output, tuple | list) and all(isinstance(each, Tensor) for each in output):
        if len(output) == 3:
            boxes, scores, classes = output
            return boxes, scores, classes
        if len(output) == 2:
            boxes, scores = output
            return boxes, scores, None
    kinds = [type(each).__name__ for each in output] if isinstance(output, tuple | list) else type(output).__name__
    raise ExecutionError(f"{_WANTED}; got {kinds}")


def _of_mapping(output: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor | None]:
    boxes, scores, classes = (_named(output, names) for names in (_BOXES, _SCORES, _CLASSES))
    if boxes is None or scores is None:
        raise ExecutionError(f"{_WANTED}; got a mapping with {', '.join(map(str, output)) or 'nothing'}")
    return boxes, scores, classes


def _named(output: Mapping[str, Any], names: Sequence[str]) -> Tensor | None:
    """Return the tensor that has one of these names, or whose name ends in one."""
    for name in names:
        for key, value in output.items():
            if isinstance(value, Tensor) and str(key).lower().split("/")[-1].endswith(name):
                return value
    return None


def _of_images(output: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return one tensor each of what every image has its own of; places that it does not use have the score 0."""
    each = [_of_mapping(image) for image in output]
    most = max((len(scores) for _, scores, _ in each), default=0)
    boxes = torch.stack([_padded(found, most) for found, _, _ in each])
    scores = torch.stack([_padded(found, most) for _, found, _ in each])
    classes = [_padded(found, most) for _, _, found in each if found is not None]
    return boxes, scores, torch.stack(classes) if len(classes) == len(each) else None


def _padded(values: Tensor, rows: int) -> Tensor:
    return torch.cat([values, values.new_zeros(rows - len(values), *values.shape[1:])])
