"""Whether files on disk are still those that a statement was made about: digests computed anew, and compared.

Who signed a statement is another question, and for the tool that signed it to answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from auditkit.errors import AuditError, UsageError
from auditkit.report.in_toto import EVIDENCE, PREDICATE, STATEMENT, model_subject, samples_descriptor
from auditkit.result import Result

__all__ = ["Verification", "evidence_digests", "verify"]


@dataclass(frozen=True)
class Verification:
    """What was compared, a sentence each."""

    same: tuple[str, ...]
    mismatches: tuple[str, ...]


class _Named(BaseModel):
    name: str
    digest: dict[str, Annotated[str, Field(pattern="^[0-9a-f]+$")]]


class _Predicate(BaseModel):
    configuration: tuple[_Named, ...]


class _Statement(BaseModel):
    kind: str = Field(alias="_type", pattern=f"^{STATEMENT}$")
    subject: tuple[_Named, ...] = Field(min_length=1)
    predicate_type: str = Field(alias="predicateType", pattern=f"^{PREDICATE}$")
    predicate: _Predicate


def evidence_digests(result: Path) -> dict[str, str]:
    """Return the sha256 (hex) of each file of a stored audit (its folder, or the `result.json` in it) that is signed.

    Raises:
        UsageError: there is no such audit.
    """
    file = result / EVIDENCE[0] if result.is_dir() else result
    if not file.is_file():
        raise UsageError(f"no stored audit: {file} is missing")
    files = [file, *(file.with_name(name) for name in EVIDENCE[1:])]
    return {name: _sha256(path) for name, path in zip(EVIDENCE, files, strict=True) if path.is_file()}


def verify(statement: Path, result: Path, model: Path | None = None) -> Verification:
    """Compare a stored audit, and the file of its model if given, with an in-toto statement of `auditkit report`.

    Raises:
        UsageError: the statement is none, or there is no such audit or model.
    """
    claimed = _read(statement)
    if model is not None and not model.is_file():
        raise UsageError(f"{model} is no file; wanted the model that was audited")
    first, *rest = claimed.subject
    if len({subject.name for subject in rest}) < len(rest):
        raise UsageError(f"{statement} names a file twice; wanted one digest for each")
    found, signed = evidence_digests(result), {subject.name: subject.digest.get("sha256") for subject in rest}
    same: list[str] = []
    mismatches: list[str] = []
    for name in EVIDENCE:
        if name not in found and name not in signed:
            continue
        line = _difference(name, signed.get(name), found.get(name))
        (same if line is None else mismatches).append(line or name)
    mismatches += [f"{name!r} is in the statement, and no file of an audit" for name in signed if name not in EVIDENCE]
    if not mismatches:
        mismatches += _contradictions(claimed, result)
    if model is not None:
        line = _model_difference(first, model)
        (same if line is None else mismatches).append(line or model.name)
    return Verification(tuple(same), tuple(mismatches))


def _read(file: Path) -> _Statement:
    try:
        return _Statement.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}; wanted a statement of auditkit report") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "as a whole"
        raise UsageError(f"{file} is no in-toto statement of an audit ({where}: {first['msg']})") from None


def _difference(name: str, signed: str | None, found: str | None) -> str | None:
    if signed is None:
        return f"{name}: it lies beside the result, and the statement does not name it"
    if found is None:
        return f"{name}: the statement names it, and it is missing"
    return None if signed == found else f"{name}: its sha256 is {found}, in the statement {signed}"


def _contradictions(claimed: _Statement, result: Path) -> Iterator[str]:
    """Yield what the statement says of model and images that the result, which has its digest, does not."""
    file = result / EVIDENCE[0] if result.is_dir() else result
    try:
        audited = Result.model_validate_json(file.read_bytes())
    except ValidationError:
        yield f"{file.name}: it is as the statement says, but no result of this auditkit"
        return
    wanted = {"another model": model_subject(audited), "other images": samples_descriptor(audited)}
    named = {"another model": claimed.subject[:1], "other images": claimed.predicate.configuration}
    for what, descriptor in wanted.items():
        if not any(each.digest == descriptor["digest"] for each in named[what]):
            yield f"{file.name}: the statement is about {what} than this result"


def _model_difference(signed: _Named, model: Path) -> str | None:
    wanted = signed.digest.get("sha256")
    if wanted is None:
        return (
            f"{model.name}: the statement is about a network in memory ({signed.name!r}), which has no file to compare"
        )
    found = _sha256(model)
    if wanted in (found, _with_external_data(model)):
        return None
    return f"{model.name}: its sha256 is {found}, in the statement {wanted}"


def _with_external_data(model: Path) -> str | None:
    """Return the sha256 of an ONNX graph and of its external data, one after another; None where there is no such."""
    if model.suffix != ".onnx":
        return None
    from auditkit.models.inspection.onnx import read_onnx
    from auditkit.models.loaded import digest_files

    try:
        _, external = read_onnx(model)
    except AuditError:
        return None
    return digest_files([model, *external])


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
