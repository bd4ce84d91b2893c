"""Labelled images: where they come from, and how they are read a shard at a time."""

from auditkit.samples.base import (
    Dataset,
    NamedDataset,
    Read,
    Samples,
    Skipped,
    fingerprint,
    gather_samples,
    join_samples,
)
from auditkit.samples.objects import Objects
from auditkit.samples.open import open_dataset
from auditkit.samples.shuffled import Shuffled
from auditkit.samples.unlabelled import open_images

__all__ = [
    "Dataset",
    "NamedDataset",
    "Objects",
    "Read",
    "Samples",
    "Shuffled",
    "Skipped",
    "fingerprint",
    "gather_samples",
    "join_samples",
    "open_dataset",
    "open_images",
]
