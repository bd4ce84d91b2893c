"""A model and images that were made ready: checks run on them here, isolated, with memory that may run out."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from auditkit.artifacts import Shelf
from auditkit.check import Findings, Finished, Learner, Lesson
from auditkit.config import Settings
from auditkit.context import Context
from auditkit.contract import check_findings
from auditkit.errors import AuditError, DeviceLostError, ExecutionError, UsageError
from auditkit.models.base import Differentiable, Model
from auditkit.models.loaded import Loaded
from auditkit.models.preprocess import Preprocessing
from auditkit.objects.detector import Detector
from auditkit.plan import Planned
from auditkit.preflight import check_classes, check_labels
from auditkit.samples import (
    Dataset,
    NamedDataset,
    Read,
    Samples,
    gather_samples,
)
from auditkit.split import is_held_out
from auditkit.store import Unit

__all__ = ["Recipe", "Workbench"]

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
