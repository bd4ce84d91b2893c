"""A model and images, made ready for checks; a worker process makes its own from the same recipe."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from auditkit.artifacts import Shelf
from auditkit.check import Findings, Finished, Learner, Lesson
from auditkit.config import Settings
from auditkit.context import Context
from auditkit.contract import check_findings
from auditkit.errors import AuditError, DeviceLostError, ExecutionError, UsageError
from auditkit.imports import import_object
from auditkit.models.base import Differentiable, Model
from auditkit.models.loaded import Loaded
from auditkit.models.open import choose_device, load_model
from auditkit.models.prepare import folded_copy, quick_copy, search_copy, watched_copy
from auditkit.models.preprocess import Preprocessing, parse_channels, parse_range
from auditkit.models.torch_files import borrowed
from auditkit.models.tryout import try_out
from auditkit.objects.detector import Detector
from auditkit.objects.tryout import Reading, search_detector, try_out_detector
from auditkit.plan import Planned
from auditkit.preflight import check_classes, check_labels, explain_failure
from auditkit.samples import (
    Dataset,
    NamedDataset,
    Read,
    Samples,
    Shuffled,
    gather_samples,
    open_dataset,
    open_images,
)
from auditkit.split import is_held_out
from auditkit.store import Unit

__all__ = ["Recipe", "Workbench", "protected", "set_up"]

_FIRST_IMAGES = 64
_SMALLEST_BATCH = 8
_CALIBRATION_IMAGES = 128

Result = TypeVar("Result")
Subject = Model | Detector


@dataclass(frozen=True)
class Recipe:
    """What a workbench is made from; picklable where model and data are given by name."""

    model: str | Path | nn.Module
    data: object
    settings: Settings


@dataclass
class Workbench:
    """A model that was tried on its images, and the images, shard by shard."""

    recipe: Recipe
    loaded: Loaded
    steps: Preprocessing
    model: Subject
    search: Differentiable | None
    dataset: Dataset
    class_names: tuple[str, ...] | None
    outside: Dataset | None = None
    """The second data set, of images unlike these."""
    _shelf: Shelf | None = None
    _calibration: Shelf | None = None

    @property
    def classifier(self) -> Model:
        """The model, for work that only classifiers are fit for.

        Raises:
            UsageError: it is a detector of objects.
        """
        if isinstance(self.model, Detector):
            raise UsageError(f"{self.model.info.name} finds objects (boxes are given); wanted a classifier of images")
        return self.model

    @property
    def calibration(self) -> Shelf:
        """Up to 128 images, spread evenly over the data set, and what was computed from them."""
        if self._calibration is None:
            self._calibration = Shelf(self.model, self._calibration_images())
        return self._calibration

    @property
    def shards(self) -> list[tuple[int, int]]:
        """The first and last (excluded) image of each shard."""
        return _spans(len(self.dataset), self.recipe.settings.shard)

    def read(self, start: int, stop: int) -> Read:
        """Read a shard, with labels as the model counts them."""
        read = self.dataset.read(start, stop)
        offset = self.recipe.settings.label_offset
        samples = read.samples.shifted(offset) if offset else read.samples
        if isinstance(self.model, Detector):
            check_classes(samples, self.model, offset)
        else:
            check_labels(samples, self.model, offset)
        return Read(samples.to(self.model.device), read.skipped)

    def lessons(self, scope: str) -> Iterator[Samples]:
        """Yield the images that a check of this scope learns from: at once, or one shard after the other."""
        match scope:
            case "dataset":
                yield self._training_half()
            case "calibrated":
                yield self.calibration.samples
            case "outside" if self.outside is not None:
                for start, stop in _spans(len(self.outside), self.recipe.settings.shard):
                    yield self.outside.read(start, stop).samples.to(self.model.device)

    def _training_half(self) -> Samples:
        """Read the images to learn from: those alone where the data set can name its images, else all, shard by shard.

        They are the most images that are ever in memory at once. They come in the order of their names, which is what
        checks sort them by, so that these need no second copy.
        """
        if isinstance(self.dataset, NamedDataset):
            ids = self.dataset.ids_between(0, len(self.dataset))
            return self._at(sorted(np.flatnonzero(~self.held_out(ids)).tolist(), key=ids.__getitem__))
        parts = []
        for start, stop in self.shards:
            samples = self.read(start, stop).samples
            parts.append(samples.take(torch.from_numpy(~self.held_out(samples.ids))))
        half = gather_samples(_each_let_go(parts), sum(len(part) for part in parts))
        return half.take(sorted(range(len(half)), key=half.ids.__getitem__))

    def _at(self, places: Sequence[int]) -> Samples:
        """Read the images at these positions."""
        spans = [(place, place + 1) for place in places] or [(0, 0)]
        return gather_samples((self.read(start, stop).samples for start, stop in spans), len(places))

    def _calibration_images(self) -> Samples:
        n = len(self.dataset)
        places = sorted({at * n // _CALIBRATION_IMAGES for at in range(_CALIBRATION_IMAGES)}) if n else []
        return self._at(places)

    def held_out(self, ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Return bool (len(ids),): the samples that checks are judged on which learn from the others."""
        return is_held_out(ids, self.recipe.settings.seed, len(self.dataset), self._image_bytes)

    @functools.cached_property
    def _image_bytes(self) -> int:
        """What an image takes in memory; 0 where none can be read."""
        reads = (self.dataset.read(place, place + 1).samples for place in range(len(self.dataset)))
        return next((samples.images.nbytes for samples in reads if len(samples)), 0)

    def run(
        self,
        planned: Planned,
        samples: Samples,
        progress: Callable[[int], None],
        lesson: Lesson | None = None,
        finished: Mapping[str, Finished] | None = None,
    ) -> Unit:
        """Run one check on one shard; memory that runs out halves the batch.

        Raises:
            ExecutionError: the check failed; the message says how.
        """
        began = time.monotonic()

        def attempt(batch: int) -> Unit:
            model, context = self._context(planned, samples, batch, began)
            context = replace(context, progress=progress, lesson=lesson or {}, finished=finished or {})
            findings = planned.check.run(model, samples, context)
            if not isinstance(findings, Findings):
                raise ExecutionError(f"{planned.key} returned {type(findings).__name__}; wanted Findings")
            check_findings(planned.check.spec, findings, len(samples))
            return Unit(findings, time.monotonic() - began)

        return self._with_memory(attempt)

    def learn(self, planned: Planned, samples: Samples, before: Lesson) -> Lesson:
        """Let a check learn from images, on top of what it learned before; memory that runs out halves the batch.

        Raises:
            ExecutionError: the check failed; the message says how.
        """
        began = time.monotonic()

        def attempt(batch: int) -> Lesson:
            model, context = self._context(planned, samples, batch, began)
            lesson = cast(Learner, planned.check).learn(model, samples, replace(context, lesson=before))
            if not all(
                isinstance(name, str) and isinstance(array, np.ndarray) and array.dtype.kind in "biufU"
                for name, array in lesson.items()
            ):
                raise ExecutionError(f"{planned.key} learned something else than named arrays of numbers or texts")
            return lesson

        return self._with_memory(attempt)

    def _with_memory(self, attempt: Callable[[int], Result]) -> Result:
        batch = self.recipe.settings.batch
        while True:
            try:
                return attempt(batch)
            except AuditError:
                raise
            except (Exception, SystemExit) as error:
                if _is_out_of_memory(error) and batch > _SMALLEST_BATCH:
                    batch //= 2
                    continue
                text = (str(error).strip().splitlines() or [""])[0]
                if _is_device_lost(error):
                    raise DeviceLostError(f"{self.model.device} failed ({type(error).__name__}: {text})") from error
                raise ExecutionError(f"{type(error).__name__}: {text}") from error

    def _context(self, planned: Planned, samples: Samples, batch: int, began: float) -> tuple[Subject, Context]:
        model = self.model.in_batches_of(batch)
        context = Context(
            key=planned.key,
            seed=self.recipe.settings.seed,
            batch=batch,
            shelf=self._shelf_for(samples, model),
            search=replace(self.search, batch=batch) if self.search is not None else None,
            class_names=self.class_names,
            time_limit=self.recipe.settings.time_limit,
            started=began,
            calibration=self._calibration_for(planned, model),
        )
        return model, context

    def _calibration_for(self, planned: Planned, model: Subject) -> Shelf | None:
        if planned.check.spec.scope != "outside":
            return None
        self.calibration.model = model
        return self.calibration

    def _shelf_for(self, samples: Samples, model: Subject) -> Shelf:
        if self._shelf is None or self._shelf.samples is not samples:
            self._shelf = Shelf(model, samples)
        self._shelf.model = model
        return self._shelf


def _each_let_go(parts: list[Samples]) -> Iterator[Samples]:
    """Yield the parts in order, and keep none that was taken."""
    parts.reverse()
    while parts:
        yield parts.pop()


def _spans(n: int, size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _is_device_lost(error: BaseException) -> bool:
    """Return whether CUDA's context is beyond repair: after such an error every call in this process fails."""
    return isinstance(error, torch.AcceleratorError) and not _is_out_of_memory(error)


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
