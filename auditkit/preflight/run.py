"""The whole preflight: every detection in turn, on a choice of the first shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from auditkit.models.base import Model
from auditkit.models.loaded import Loaded
from auditkit.models.preprocess import Preprocessing
from auditkit.preflight.diagnosis import Diagnosis, Remedy, info, warning
from auditkit.preflight.evidence import share
from auditkit.preflight.labels import accuracy_diagnoses, check_labels, class_diagnoses, has_background
from auditkit.preflight.options import changed_aspects, in_words, left_out, option_line
from auditkit.preflight.outputs import kind_diagnoses, right_outputs, saturation_diagnoses
from auditkit.preflight.search import Better, better_convention
from auditkit.preflight.stability import batch_diagnoses, stability_diagnoses
from auditkit.preflight.trial import scores
from auditkit.result import NoteRecord
from auditkit.samples.base import Samples

__all__ = ["diagnose", "preflight"]

_IMAGES = 256


def preflight(
    loaded: Loaded,
    steps: Preprocessing,
    model: Model,
    samples: Samples,
    *,
    class_names: Sequence[str] | None = None,
    label_offset: int = 0,
) -> tuple[NoteRecord, ...]:
    """Return what is notable about a model and its images, warnings first; see `diagnose`.

    Raises:
        ExecutionError: a label is none of the network's outputs.
    """
    found = diagnose(loaded, steps, model, samples, class_names=class_names, label_offset=label_offset)
    return tuple(diagnosis.note for diagnosis in found)


def diagnose(
    loaded: Loaded,
    steps: Preprocessing,
    model: Model,
    samples: Samples,
    *,
    class_names: Sequence[str] | None = None,
    label_offset: int = 0,
) -> tuple[Diagnosis, ...]:
    """Return what is notable about a model and its images, warnings first.

    A remedy holds the configured options and those of all remedies before it, so the last one is complete.

    Args:
        loaded: The raw network.
        steps: The configured preprocessing.
        model: The network as `try_out` returned it.
        samples: The first shard, with `label_offset` added to its labels; up to 256 images of it are used.
        class_names: Names of the labels by index, if they have any.
        label_offset: The configured `--label-offset`.

    Raises:
        ExecutionError: a label is none of the network's outputs.
    """
    check_labels(samples, model, label_offset)
    found = _diagnoses(loaded, steps, model, _chosen(samples), class_names, label_offset)
    return tuple(sorted(found, key=lambda diagnosis: diagnosis.note.level != "warning"))


def _diagnoses(
    loaded: Loaded,
    steps: Preprocessing,
    model: Model,
    samples: Samples,
    class_names: Sequence[str] | None,
    label_offset: int,
) -> Iterator[Diagnosis]:
    yield from (info("model", note) for note in loaded.notes)
    yield from batch_diagnoses(loaded, model)
    if model.no_gradients is not None:
        yield info("gradients", f"There are no gradients: {model.no_gradients}.", "see the skipped checks")
    if len(samples) == 0:
        return
    samples = samples.to(model.device)
    images, labels = samples.images, samples.labels
    outputs = scores(loaded, model, steps, images)
    predicted, classes = outputs.argmax(1), outputs.shape[1]
    yield from kind_diagnoses(steps, outputs, label_offset)
    yield from stability_diagnoses(loaded, steps, model, images)
    better = None
    if classes > 1:
        base = right_outputs(steps, outputs)
        better = better_convention(loaded, base, model, images, labels, predicted)
    if better is None:
        if steps.outputs != "labels":
            yield from saturation_diagnoses(outputs, logits_behind_softmax=loaded.before_softmax is not None)
        yield from class_diagnoses(labels, predicted, classes, class_names)
        yield from accuracy_diagnoses(labels, predicted, classes)
    else:
        background = has_background(labels, class_names, classes)
        yield from _better_diagnoses(steps, better, images.shape[1], background, label_offset)


def _chosen(samples: Samples) -> Samples:
    """Return up to 256 samples by the digest of their ids, which mixes the classes in any order of files."""
    order = sorted(range(len(samples)), key=lambda row: _digest(samples.ids[row]))
    return samples.take(order[:_IMAGES])


def _digest(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def _better_diagnoses(
    steps: Preprocessing, better: Better, channels: int, background: bool, label_offset: int
) -> Iterator[Diagnosis]:
    line = option_line(better.steps, label_offset + better.label_offset)
    remedy = Remedy(line, better.steps, better.label_offset)
    words = _remedy_words(line, steps, better, label_offset)
    before, after = share(better.right_before, better.n), share(better.right_after, better.n)
    aspects = changed_aspects(steps, better.steps)
    if aspects:
        text = (
            f"As configured ({in_words(steps, channels)}) the network is right for {before}, "
            f"fed with {in_words(better.steps, channels)} for {after}."
        )
        if steps.mean is not None and better.steps.mean is None:
            text += " It seems to normalise its input by itself, so that it is normalised twice now."
        yield warning(aspects[0], text, words, remedy)
    if better.label_offset:
        text = (
            f"With the labels as they are the network is right for {before}, "
            f"with {better.label_offset:+d} added to each for {after}"
        )
        if background and better.label_offset == 1:
            text += "; it has one output more than there are classes, for the background it seems"
            yield warning("background", f"{text}.", words, remedy)
        else:
            yield warning("labels", f"{text}.", words, remedy)


def _remedy_words(line: str, steps: Preprocessing, better: Better, label_offset: int) -> str:
    drop = [*left_out(steps, better.steps)]
    if label_offset and label_offset + better.label_offset == 0:
        drop.append("--label-offset")
    parts = [f"use {line}"] if line else []
    if drop:
        parts.append(f"leave out {' and '.join(drop)}")
    return "; ".join(parts)
