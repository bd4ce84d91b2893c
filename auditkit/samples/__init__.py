"""Labelled images: where they come from, and how they are read a shard at a time."""

from auditkit.samples.base import Dataset, Read, Samples, Skipped, fingerprint
from auditkit.samples.open import open_dataset

__all__ = ["Dataset", "Read", "Samples", "Skipped", "fingerprint", "open_dataset"]
