"""Tries a loaded model on real images: what it returns, in which batches, and whether its gradients can be trusted."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from auditkit.errors import AuditError, ExecutionError
from auditkit.models.base import Batching, Differentiable, Model, ModelInfo
from auditkit.models.batching import find_batching, find_gradient_batching
from auditkit.models.before_softmax import without_softmax
from auditkit.models.labels import are_labels, count_classes
from auditkit.models.loaded import Loaded
from auditkit.models.preprocess import Preprocessed, Preprocessing, frozen_copy
from auditkit.models.taps import ActivationSite, find_sites, tap_activations

__all__ = ["check_input", "image_size", "stated_input", "try_out"]


def try_out(
    loaded: Loaded, steps: Preprocessing, images: Tensor, device: torch.device, batch: int, known_classes: int = 1
) -> Model:
    """Return the model that the audit works with, after it ran on `images` (N, C, H, W) in [0, 1].

    `known_classes` is how many classes there are at least; it counts for a network that returns labels, whose answers
    do not tell.

    Raises:
        ExecutionError: the model does not take these images, or does not return what `steps` say.
    """
    images = images.to(device)
    check_input(loaded, steps, images)

    def deployed(batch_of_images: Tensor) -> Tensor:
        return steps.logits(loaded.run(steps.inputs(batch_of_images)))

    batching = _deployed_batching(loaded, deployed, images, batch)
    info = ModelInfo(
        name=loaded.name,
        format=loaded.format,
        digest=loaded.digest,
        classes=0,
        input_shape=stated_input(loaded, steps),
        provider=loaded.provider,
        preprocessing=steps.describe(),
    )
    model = Model(info, deployed, device, None, loaded.no_network, "none", batching, batch)
    answers = _first_answers(model, images)
    if steps.outputs == "labels":
        classes = max(known_classes, count_classes(answers, loaded.name))
        return replace(
            model, info=replace(info, classes=classes), label_classes=classes, no_gradients="it gives labels only"
        )
    logits = model.scores(answers)
    if logits.shape[1] == 1 and are_labels(logits):
        raise ExecutionError(
            f"{loaded.name}: a classifier returns (images, classes) scores; got one whole number an image: "
            "if these are labels, add --outputs labels"
        )
    model = replace(model, info=replace(info, classes=logits.shape[1]))
    return _with_gradients(model, loaded, steps, images)


def check_input(loaded: Loaded, steps: Preprocessing, images: Tensor) -> None:
    """Make sure that a network takes images (N, C, H, W).

    Raises:
        ExecutionError: it states another size; the message says which option helps.
    """
    wanted = stated_input(loaded, steps)
    got = tuple(images.shape[1:])
    for axis, remedy in enumerate(("--colour rgb or --colour grey", "--resize", "--resize")):
        size = wanted[axis]
        if size is None or size == got[axis]:
            continue
        hint = f"; add --resize {wanted[1]}x{wanted[2]}" if axis and all(wanted[1:]) else f"; see {remedy}"
        stated = loaded.input_shape or ()
        if axis == 0 and steps.layout == "nchw" and stated[-1:] == (got[0],):
            hint = "; the network takes channels last: add --layout nhwc"
        raise ExecutionError(
            f"{loaded.name} takes images of {image_size(wanted)} (channels x height x width), "
            f"the samples have {image_size(got)}{hint}"
        )


def stated_input(loaded: Loaded, steps: Preprocessing) -> tuple[int | None, int | None, int | None]:
    """Return channels, height and width that a network states, None where it takes any."""
    if loaded.input_shape is None or len(loaded.input_shape) != 3:
        return None, None, None
    first, second, third = loaded.input_shape
    return (third, first, second) if steps.layout == "nhwc" else (first, second, third)


def image_size(shape: tuple[int | None, ...]) -> str:
    """Return a shape in words, such as `3x32x32`."""
    return "x".join("any" if size is None else str(size) for size in shape)


def _deployed_batching(loaded: Loaded, deployed: nn.Module | object, images: Tensor, batch: int) -> Batching:
    if loaded.fixed_batch is not None:
        return Batching(minimum=loaded.fixed_batch, fixed=loaded.fixed_batch)
    with torch.no_grad():
        return find_batching(deployed, images, batch)  # type: ignore[arg-type]


def _first_answers(model: Model, images: Tensor) -> Tensor:
    try:
        return model.answers(images)
    except AuditError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[-1] if lines else type(error).__name__
        raise ExecutionError(
            f"{model.info.name} does not run on images of {image_size(tuple(images.shape[1:]))} "
            f"(channels x height x width): {reason[:300]}; see --resize, --colour, --layout and --input-range"
        ) from error


def _with_gradients(model: Model, loaded: Loaded, steps: Preprocessing, images: Tensor) -> Model:
    network, reason = loaded.network, loaded.no_network
    if network is None:
        return replace(model, no_gradients=reason)
    if loaded.before_softmax is not None and steps.outputs == "probabilities":
        prepared = Preprocessed(
            nn.Sequential(loaded.before_softmax, nn.LogSoftmax(1)), replace(steps, outputs="logits")
        )
    else:
        prepared = Preprocessed(network, steps)
    prepared = frozen_copy(prepared).to(model.device)
    exact = Differentiable(prepared, "float32", batching=model.batching, batch=model.batch)
    reason = _gradient_fault(exact, images[:8]) or _disagreement(loaded, steps, prepared, model, images)
    if reason is not None:
        return replace(model, no_gradients=reason)
    if exact.batching.fixed != 1:
        exact = replace(exact, batching=find_gradient_batching(exact, images))
    exact = replace(exact, before_softmax=without_softmax(exact, images[:8]))
    source = "the model itself"
    if loaded.is_twin:
        source = "a torch twin of the ONNX graph, seen to agree with onnxruntime on the samples"
        source += " (straight-through gradients)" if loaded.quantised else ""
    sites, no_sites = _sites(exact, images)
    return replace(
        model,
        exact=exact,
        no_gradients=None,
        gradient_source=source,
        sites=sites,
        no_activations=no_sites,
        watched=exact,
    )


def _sites(exact: Differentiable, images: Tensor) -> tuple[tuple[ActivationSite, ...], str | None]:
    """Return the sites at which activations were tapped, or why there are none."""
    try:
        sites = find_sites(exact, images)
        tap_activations(exact, sites, images[:1], lambda site, activations, rows: None)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return (), (lines or [type(error).__name__])[0][:200]
    return sites, None if sites else "it calls no activation function"


def _top_score(logits: Tensor) -> Tensor:
    return logits.amax(1)


def _gradient_fault(exact: Differentiable, images: Tensor) -> str | None:
    try:
        _, gradient = exact.gradient(images, _top_score)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"no gradient reaches the image ({(lines or [type(error).__name__])[0][:200]})"
    return None if bool(gradient.isfinite().all()) else "the gradient at the first images is not finite"


def _disagreement(loaded: Loaded, steps: Preprocessing, twin: nn.Module, model: Model, images: Tensor) -> str | None:
    """Return why the differentiable network may not speak for the deployed one, None where it may."""
    if not loaded.is_twin:
        return None
    from auditkit.models.twin import TwinError, compare

    if steps.outputs == "probabilities":
        # Of a probability of zero the deployed model has a least logarithm, the twin none.
        least = float(steps.logits(torch.zeros(1, 1)))
        twin = nn.Sequential(twin, nn.Hardtanh(least, 0.0))
    try:
        agreement = compare(twin, model.logits, images)
    except TwinError as error:
        return f"the torch twin fails on the samples ({error})"
    if agreement.trustworthy:
        return None
    return (
        f"the torch twin does not agree with onnxruntime: labels agree on {agreement.label_agreement:.1%} of "
        f"{agreement.n} images, scores differ by up to {agreement.largest_difference:.2g} of their scale"
    )
