"""Tries a loaded detector on real images: how its answers are read, in which batches, and what gradients are worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from auditkit.errors import AuditError, ExecutionError
from auditkit.models.base import Batching, Differentiable, ModelInfo
from auditkit.models.batching import find_batching
from auditkit.models.loaded import Loaded
from auditkit.models.prepare import Precision, folded_differentiable, search_differentiable
from auditkit.models.preprocess import Preprocessing, frozen_copy
from auditkit.models.tryout import check_input, image_size, stated_input
from auditkit.objects.decoded import Decoded, Surest
from auditkit.objects.detections import Candidates, Suppression
from auditkit.objects.detector import Detector
from auditkit.objects.outputs import BoxUnits, Decoder

__all__ = ["Reading", "search_detector", "try_out_detector"]

# Images of detectors are large: a few of them tell enough.
_TRIED = 4
# Boxes in shares hardly reach beyond the image; of boxes in pixels hardly any ends within the first two.
_LARGEST_SHARE = 2.0
_NOTICED = 0.05
# Candidates of twins that are worth a look may differ by so much of the image, or of a score.
_TWIN_TOLERANCE = 1e-2
_TWIN_SCORES = 1e-3


@dataclass(frozen=True)
class Reading:
    """How the user says that a detector's answers are to be read."""

    decode: Callable[[Any], Any] | None = None
    units: Literal["auto", "shares", "pixels"] = "auto"
    overlap: float | Literal["auto"] | None = "auto"
    score: float = 0.3

    def suppression(self, raw: bool) -> Suppression:
        """Return what makes detections of candidates: `raw` ones overlap, those of a whole detector do not."""
        if self.overlap != "auto":
            return Suppression(self.overlap)
        return Suppression() if raw else Suppression(None)


def try_out_detector(
    loaded: Loaded,
    steps: Preprocessing,
    images: Tensor,
    device: torch.device,
    batch: int,
    classes: int,
    reading: Reading,
) -> Detector:
    """Return the detector that the audit works with, after it ran on some of `images` (N, C, H, W) in [0, 1].

    `classes` is how many there are, unless the network gives a score for each.

    Raises:
        ExecutionError: the network does not take these images, or returns none of the known forms.
    """
    images = images[:_TRIED].to(device)
    check_input(loaded, steps, images)
    if loaded.fixed_batch is not None:
        # A network that insists on its batch size gets just so many.
        images = images[torch.arange(loaded.fixed_batch, device=device) % len(images)]
    decoder, raw = _decoder(loaded, steps, images, classes, reading)
    suppression = reading.suppression(raw)

    def deployed(some: Tensor) -> Tensor:
        height, width = some.shape[2:]
        return decoder(loaded.run(steps.inputs(some)), (height, width))

    packed = deployed(images)
    info = ModelInfo(
        name=loaded.name,
        format=loaded.format,
        digest=loaded.digest,
        classes=packed.shape[2] - 4,
        input_shape=stated_input(loaded, steps),
        provider=loaded.provider,
        preprocessing={
            **{name: value for name, value in steps.describe().items() if name != "outputs"},
            "box_units": decoder.units,
            "suppression": suppression.overlap,
        },
    )
    detector = Detector(
        info, deployed, device, None, loaded.no_network, "none", decoder, suppression, reading.score, batch=batch
    )
    detector = replace(detector, batching=_batching(loaded, detector, images))
    return _with_gradients(detector, loaded, steps, decoder, images)


def search_detector(detector: Detector, images: Tensor, precision: Precision = "auto") -> Differentiable | None:
    """Return the copy to search with, which gives packed candidates; None without gradients.

    It is chosen as that of a classifier is, by how sure it is of each candidate in `images` (N, C, H, W).
    """
    exact = detector.exact
    if exact is None:
        return None
    decoded = exact.network
    assert isinstance(decoded, Decoded)  # noqa: S101 (the only kind that `try_out_detector` makes)
    images = images[:_TRIED].to(detector.device)
    surest = replace(exact, network=Surest(decoded.network, decoded.steps, decoded.decoder))
    folded = folded_differentiable(surest, images)
    found = search_differentiable(surest, folded, images, precision)
    return replace(found, network=Decoded(found.network.network, decoded.steps, decoded.decoder))


def _decoder(
    loaded: Loaded, steps: Preprocessing, images: Tensor, classes: int, reading: Reading
) -> tuple[Decoder, bool]:
    """Return how the network's answers are read, and whether they are raw candidates."""
    decoder = Decoder(classes, "shares", reading.decode, loaded.output_names)
    try:
        with torch.no_grad():
            output = loaded.run(steps.inputs(images))
            (boxes, scores), raw = decoder.read(output), decoder.has_scores_of_all(output)
    except AuditError as error:
        raise ExecutionError(f"{loaded.name}: {error}") from error
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ExecutionError(
            f"{loaded.name} does not run on images of {image_size(tuple(images.shape[1:]))} "
            f"(channels x height x width): {(lines or [type(error).__name__])[-1][:300]}; see --resize, --colour, "
            "--layout and --input-range"
        ) from error
    if len(boxes) != len(images):
        raise ExecutionError(f"{loaded.name}: wanted boxes for {len(images)} images, got them for {len(boxes)}")
    least, most = (float(bound) for bound in scores.aminmax()) if scores.numel() else (0.0, 0.0)
    if not 0 <= least <= most <= 1:
        raise ExecutionError(f"{loaded.name}: scores run from {least:.3g} to {most:.3g}; wanted them in [0, 1]")
    return replace(decoder, units=_units(boxes, scores) if reading.units == "auto" else reading.units), raw


def _units(boxes: Tensor, scores: Tensor) -> BoxUnits:
    sure = boxes[scores.amax(2) >= _NOTICED] if scores.numel() else boxes.flatten(0, 1)
    return "shares" if not sure.numel() or float(sure.abs().max()) <= _LARGEST_SHARE else "pixels"


def _batching(loaded: Loaded, detector: Detector, images: Tensor) -> Batching:
    if loaded.fixed_batch is not None:
        return Batching(minimum=loaded.fixed_batch, fixed=loaded.fixed_batch)

    def detected(rows: Tensor) -> Tensor:
        found = detector.suppression(Candidates(detector.deployed(rows)))
        return torch.cat([found.boxes.flatten(1), found.scores], 1)

    with torch.no_grad():
        return find_batching(detected, images, 1)


def _with_gradients(
    detector: Detector, loaded: Loaded, steps: Preprocessing, decoder: Decoder, images: Tensor
) -> Detector:
    if loaded.network is None:
        return detector
    decoded = frozen_copy(Decoded(loaded.network, steps, decoder)).to(detector.device)
    exact = Differentiable(decoded, "float32", batching=detector.batching, batch=detector.batch)
    reason = _gradient_fault(exact, images) or _disagreement(loaded, detector, exact, images)
    if reason is not None:
        return replace(detector, no_gradients=reason)
    source = "the model itself"
    if loaded.is_twin:
        source = "a torch twin of the ONNX graph, seen to agree with onnxruntime on the samples"
        source += " (straight-through gradients)" if loaded.quantised else ""
    return replace(detector, exact=exact, no_gradients=None, gradient_source=source)


def _gradient_fault(exact: Differentiable, images: Tensor) -> str | None:
    try:
        _, gradient = exact.gradient(images[:1], lambda packed: Candidates(packed).scores.sum((1, 2)))
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"no gradient reaches the image ({(lines or [type(error).__name__])[0][:200]})"
    return None if bool(gradient.isfinite().all()) else "the gradient at the first image is not finite"


def _disagreement(loaded: Loaded, detector: Detector, exact: Differentiable, images: Tensor) -> str | None:
    """Return why the differentiable network may not speak for the deployed one, None where it may."""
    if not loaded.is_twin:
        return None
    try:
        twin, own = Candidates(exact.logits(images)), Candidates(detector.deployed(images))
        scores = float((twin.scores - own.scores).abs().max())
        boxes = (twin.boxes - own.boxes).abs() * (own.scores.amax(2, keepdim=True) >= _NOTICED)
        apart = float(boxes.max())
    except Exception as error:
        lines = str(error).strip().splitlines()
        return f"the torch twin fails on the samples ({(lines or [type(error).__name__])[0][:200]})"
    rounding = _TWIN_TOLERANCE if loaded.quantised else _TWIN_SCORES
    if scores <= rounding and apart <= _TWIN_TOLERANCE:
        return None
    return (
        f"the torch twin does not agree with onnxruntime: scores differ by up to {scores:.2g}, boxes by up to "
        f"{apart:.2g} of the image"
    )
