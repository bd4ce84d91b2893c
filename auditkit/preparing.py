"""Makes a model and images ready for checks; a worker process makes its own workbench from the same recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from auditkit.config import Settings
from auditkit.errors import ExecutionError, UsageError
from auditkit.imports import import_object
from auditkit.models.open import choose_device, load_model
from auditkit.models.prepare import folded_copy, quick_copy, search_copy, watched_copy
from auditkit.models.preprocess import Preprocessing, parse_channels, parse_range
from auditkit.models.torch_files import borrowed
from auditkit.models.tryout import try_out
from auditkit.objects.tryout import Reading, search_detector, try_out_detector
from auditkit.preflight import explain_failure
from auditkit.samples import Dataset, Shuffled, open_dataset, open_images
from auditkit.workbench import Recipe, Workbench

__all__ = ["protected", "set_up"]

_FIRST_IMAGES = 64


@contextmanager
def protected(recipe: Recipe) -> Iterator[None]:
    """Keep a caller's network in evaluation mode, and give it and torch's random state back as they were."""
    network = borrowed(recipe.model) if isinstance(recipe.model, nn.Module) else nullcontext()
    with torch.random.fork_rng(), network:
        yield


def set_up(recipe: Recipe) -> Workbench:
    """Open model and data, try one on the other, and prepare the search copy.

    Raises:
        UsageError: model, data or an option is not what it should be.
        ExecutionError: they do not work, or not together.
    """
    settings = recipe.settings
    device = choose_device(settings.device)
    steps = Preprocessing(
        input_range=parse_range(settings.input_range),
        mean=parse_channels(settings.mean, "--mean") if settings.mean is not None else None,
        std=parse_channels(settings.std, "--std") if settings.std is not None else None,
        channel_order=settings.channel_order,
        layout=settings.layout,
        outputs=settings.outputs,
    )
    dataset = open_dataset(
        recipe.data,
        labels_csv=settings.labels,
        masks=settings.masks,
        boxes=settings.boxes,
        resize=settings.resize,
        grey={"auto": None, "rgb": False, "grey": True}[settings.colour],
        skip_bad=settings.skip_bad,
        limit=settings.limit,
        class_names=settings.class_names,
    )
    if settings.until_decided:
        dataset = Shuffled(dataset, settings.seed)
    loaded = load_model(recipe.model, weights=settings.weights, device=device, trust_pickle=settings.trust_pickle)
    first = dataset.read(0, min(_FIRST_IMAGES, len(dataset))).samples
    if not len(first):
        raise ExecutionError(f"{dataset.source}: none of the first {_FIRST_IMAGES} images can be read")
    outside = _open_outside(settings, first.images) if settings.ood is not None else None
    names = _shifted_names(dataset.class_names, settings.label_offset)
    known = max(settings.classes or 1, len(names or ()), int(first.labels.max()) + settings.label_offset + 1)
    if settings.boxes is not None:
        detector = try_out_detector(loaded, steps, first.images, device, settings.batch, known, _reading(settings))
        search = search_detector(detector, first.images, settings.precision)
        return Workbench(recipe, loaded, steps, detector, search, dataset, names)
    try:
        model = try_out(loaded, steps, first.images, device, settings.batch, known)
    except ExecutionError as error:
        remedy = explain_failure(loaded, steps, first, device)
        if remedy is None or f"add {remedy.rpartition(' with ')[2]}" in str(error):
            raise
        raise ExecutionError(f"{error}; {remedy}") from error
    folded = folded_copy(model, first.images)
    model = replace(model, quick=quick_copy(model, folded, first.images))
    model = replace(model, watched=watched_copy(model, folded, first.images))
    search = search_copy(model, folded, first.images, settings.precision)
    return Workbench(recipe, loaded, steps, model, search, dataset, names, outside)


def _reading(settings: Settings) -> Reading:
    """Return how a detector's answers are to be read.

    Raises:
        UsageError: what is to decode them is no function.
    """
    decode = import_object(settings.decode) if isinstance(settings.decode, str) else settings.decode
    if decode is not None and not callable(decode):
        raise UsageError(f"--decode {settings.decode} is a {type(decode).__name__}; wanted a function")
    overlap = None if settings.overlap == "none" else settings.overlap
    return Reading(decode, settings.box_units, overlap, settings.score)


def _open_outside(settings: Settings, images: Tensor) -> Dataset:
    """Open the second data set, whose images must have the form of these (N, C, H, W).

    Raises:
        UsageError: there is no such data set.
        ExecutionError: none of its images can be read, or they have another form.
    """
    wanted = tuple(images.shape[1:])
    outside = open_images(settings.ood, resize=settings.resize, grey=wanted[0] == 1, skip_bad=settings.skip_bad)
    read = (outside.read(at, at + 1).samples for at in range(len(outside)))
    got = next((tuple(samples.images.shape[1:]) for samples in read if len(samples)), wanted)
    if got != wanted:
        sizes = ["x".join(map(str, shape)) for shape in (got, wanted)]
        remedy = "--resize HxW makes them one size" if got[1:] != wanted[1:] else "open them as grey or as RGB alike"
        raise ExecutionError(
            f"--ood {outside.source}: its images are {sizes[0]} (channels x height x width), the samples {sizes[1]}; "
            f"{remedy}"
        )
    return outside


def _shifted_names(names: tuple[str, ...] | None, offset: int) -> tuple[str, ...] | None:
    if names is None or offset == 0:
        return names
    return ("(no label)",) * offset + names if offset > 0 else names[-offset:]
