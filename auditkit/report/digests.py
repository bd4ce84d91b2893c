"""What a signature under the report would bind: the model, the images, and the result itself."""

from __future__ import annotations

import hashlib

from auditkit.result import Result

__all__ = ["signed_digests"]


def signed_digests(result: Result) -> list[tuple[str, str]]:
    """Return what is signed and its digest; that of the result is the SHA-256 of `result.json` as it is written."""
    return [
        (f"Model {result.model.name}, SHA-256", result.model.digest),
        (f"{result.samples.n} images of {result.samples.source}, fingerprint", result.samples.fingerprint),
        ("Result (result.json), SHA-256", hashlib.sha256(result.to_json().encode()).hexdigest()),
    ]
