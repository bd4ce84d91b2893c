"""Gradient saliency of detections: which pixels a detection hangs on, and whether they lie in its box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from auditkit import (
    CLEAN_DETECTIONS,
    Candidates,
    Capability,
    Context,
    Detections,
    Detector,
    Differentiable,
    Exhibit,
    Findings,
    Mark,
    Metric,
    Samples,
    Spec,
    image_panel,
    marks_of,
    objects_of,
    overlaps,
    overlay_panel,
)
from auditkit_plugins.detectors.boxed_share import BoxedShare, boxed_share

__all__ = ["DetectionSaliency", "detection_maps"]

_IN_ITS_PLACE = 0.5


@dataclass(frozen=True)
class _Seen:
    """One detection that is looked at."""

    row: int
    """Of the sample."""
    place: int
    """Among the detections in its image, the surest first."""
    box: tuple[float, ...]
    category: int
    score: float
    mark: Mark


@dataclass(frozen=True)
class DetectionSaliency:
    """The gradient of each detection's score with respect to the raw pixels, and how much of it lies in its box."""

    spec: ClassVar[Spec] = Spec(
        id="explain.saliency",
        title="What the detector reports hangs on the pixels in its box",
        why=(
            "A detection should hang on the object. Where most of the gradient lies beside the box, the detector "
            "judges by the surroundings, a road for a car say, and whoever controls these controls the detection. "
            "The share in the box is shown beside that of a box of the same size put anywhere else: a large box "
            "holds much of any map."
        ),
        metrics=(
            Metric("inside_share", "inside_share", "Share of the map in the detection's box", "mean", among="mapped"),
            Metric("anywhere_share", "anywhere_share", "The same for its box put anywhere", "mean", among="mapped"),
            Metric("box_share", "box_share", "Share of the image that the box covers", "mean", among="mapped"),
            Metric(
                "concentration",
                "concentration",
                "Share of the map in the box over the share of the image, typical image",
                "median",
                among="mapped",
            ),
            Metric("pointing", "pointing", "Maps that are largest in the box", "ratio", against="responding"),
            Metric("responds", "responding", "Detections whose map is not zero everywhere", "ratio", against="seen"),
        ),
        needs=frozenset({Capability.GRADIENTS}),
        references=(
            "Simonyan et al. 2014, https://arxiv.org/abs/1312.6034",
            "Zhang et al. 2018 (the pointing game), https://arxiv.org/abs/1608.00507",
            "Petsiuk et al. 2021 (maps of detections), https://arxiv.org/abs/2006.03204",
        ),
        presets={"smoke": {"most": 1}, "standard": {}, "full": {"most": 10}},
    )

    most: Annotated[int, Field(ge=1)] = 3
    """How many detections of an image are looked at, the surest first."""
    gallery: Annotated[int, Field(ge=0)] = 8
    """How many images are shown."""

    def run(self, detector: Detector, samples: Samples, ctx: Context) -> Findings:
        """Map the surest detections of every image; show the surest wrong ones first."""
        assert detector.exact is not None  # noqa: S101 (declared in the spec)
        seen = self._seen(detector, samples, ctx)
        shown = _shown(seen, samples, self.gallery)
        shares: list[BoxedShare | None] = []
        exhibits = []
        for each, heat in _maps(detector.exact, seen, samples, ctx):
            shares.append(boxed_share(heat.cpu().numpy(), each.box))
            if each in shown:
                exhibits.append(_exhibit(each, heat, shares[-1], samples))
        ctx.progress(len(samples))
        exhibits.sort(key=lambda exhibit: (-exhibit.score, exhibit.sample))
        columns = _columns(seen, shares, len(samples))
        return Findings(columns, tuple(exhibits), forwards=1 + columns["seen"], backwards=columns["seen"])

    def _seen(self, detector: Detector, samples: Samples, ctx: Context) -> list[_Seen]:
        found, objects = ctx.shelf.get(CLEAN_DETECTIONS), objects_of(samples)
        seen = []
        for row in range(len(samples)):
            sure = (found.scores[row] >= detector.score).nonzero().flatten().tolist()
            for place in sure[: self.most]:
                only = _only(found, row, place)
                (mark,) = marks_of(only, 0, objects[row], detector.score, ctx.class_name)
                box = tuple(only.boxes[0, 0].tolist())
                seen.append(_Seen(row, place, box, int(only.classes), float(only.scores), mark))
        return seen


def detection_maps(model: Differentiable, images: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
    """Return float32 (N, H, W): how strongly each raw pixel moves the score of one detection an image.

    `boxes` (N, 4) and `classes` (N,) say which: of the candidates whose boxes overlap it by half, the surest of its
    class. The map is the gradient of that one's score with respect to `images` (N, C, H, W) in [0, 1], absolute,
    maximum over channels; zero where there is no such candidate.
    """
    _, gradient = model.gradient(images, _score, boxes, classes)
    return gradient.abs().amax(1)


def _score(packed: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
    candidates = Candidates(packed)
    near = overlaps(boxes.unsqueeze(1), candidates.boxes.detach().clamp(0, 1)).squeeze(1) >= _IN_ITS_PLACE
    own = candidates.scores.gather(2, classes.view(-1, 1, 1).expand(-1, candidates.scores.shape[1], 1)).squeeze(2)
    return (own * near).amax(1)


def _only(found: Detections, row: int, place: int) -> Detections:
    rows, places = slice(row, row + 1), slice(place, place + 1)
    return Detections(found.boxes[rows, places], found.scores[rows, places], found.classes[rows, places])


def _maps(
    model: Differentiable, seen: Sequence[_Seen], samples: Samples, ctx: Context
) -> Iterator[tuple[_Seen, Tensor]]:
    """Yield each detection with its map (H, W), computed in batches."""
    device = samples.images.device
    for at in range(0, len(seen), ctx.batch):
        ctx.check_time()
        some = seen[at : at + ctx.batch]
        rows = torch.tensor([each.row for each in some], device=device)
        boxes = torch.tensor([each.box for each in some], device=device)
        classes = torch.tensor([each.category for each in some], device=device)
        yield from zip(some, detection_maps(model, samples.images[rows], boxes, classes), strict=True)


def _shown(seen: Sequence[_Seen], samples: Samples, gallery: int) -> set[_Seen]:
    """Return one detection of each of the images to be shown: wrong ones before right ones, the surest first."""
    ranked = sorted(seen, key=lambda each: (-_rank(each), samples.ids[each.row], each.place))
    best: dict[int, _Seen] = {}
    for each in ranked:
        best.setdefault(each.row, each)
    return set(list(best.values())[:gallery])


def _rank(seen: _Seen) -> float:
    return seen.score + (seen.mark.tone == "wrong")


def _exhibit(seen: _Seen, heat: Tensor, share: BoxedShare | None, samples: Samples) -> Exhibit:
    image, verdict = samples.images[seen.row], "no such object" if seen.mark.tone == "wrong" else "rightly found"
    lies = "its map is zero" if share is None else f"{share.inside:.0%} of its map on {share.area:.0%} of the image"
    panels = (image_panel("the detection", image, (seen.mark,)), overlay_panel("its saliency", image, heat))
    return Exhibit(samples.ids[seen.row], f"{seen.mark.text}, {verdict}: {lies}", _rank(seen), panels)


def _columns(seen: Sequence[_Seen], shares: Sequence[BoxedShare | None], n: int) -> dict[str, npt.NDArray[Any]]:
    """Return for each image what its detections show on average; NaN where none has a map."""
    of_image: list[list[BoxedShare]] = [[] for _ in range(n)]
    for each, share in zip(seen, shares, strict=True):
        if share is not None:
            of_image[each.row].append(share)

    def mean(values: list[list[float]]) -> npt.NDArray[np.float64]:
        return np.array([sum(own) / len(own) if own else np.nan for own in values], dtype=np.float64)

    responding = np.array([len(own) for own in of_image], dtype=np.int64)
    return {
        "seen": np.bincount([each.row for each in seen], minlength=n).astype(np.int64),
        "responding": responding,
        "mapped": responding > 0,
        "inside_share": mean([[each.inside for each in own] for own in of_image]),
        "anywhere_share": mean([[each.anywhere for each in own] for own in of_image]),
        "box_share": mean([[each.area for each in own] for own in of_image]),
        "concentration": mean([[each.inside / each.area for each in own] for own in of_image]),
        "pointing": np.array([sum(each.points for each in own) for own in of_image], dtype=np.int64),
    }
