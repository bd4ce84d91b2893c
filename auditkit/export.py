"""Hard and attacked images as image folders to train on, with a manifest that says where each comes from."""

from __future__ import annotations

import csv
import hashlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from auditkit.check import Findings
from auditkit.engine import Execution
from auditkit.errors import UsageError
from auditkit.samples import Samples
from auditkit.store import Store
from auditkit.stored import from_16bit
from auditkit.workbench import Workbench

__all__ = ["check_export_folder", "export_samples"]

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 80
_HARD = "samples.hard"


@dataclass(frozen=True)
class _Picture:
    """A file to be written, and its line in the manifest."""

    folder: str
    sample: str
    label: int
    image: Tensor
    """float32 (C, H, W) in [0, 1]."""
    suffix: str = ""
    check: str = ""
    attacked_label: int | None = None
    distance: float | None = None
    fools_as_png: bool | None = None
    endurance: float | None = None


def check_export_folder(folder: Path) -> None:
    """Make sure that there is nothing yet where images shall be exported to.

    Raises:
        UsageError: there is.
    """
    if folder.exists():
        raise UsageError(f"--export {folder} is there already; move it away, or choose another folder")


def export_samples(bench: Workbench, execution: Execution, store: Store, folder: Path) -> int:
    """Write `hard/CLASS/*.png`, `attacked/CLASS/*.png` and `manifest.csv`; return the number of images.

    The folder is complete or not there. Hard images are those that the check samples.hard calls so.
    """
    check_export_folder(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        written = _write(_pictures(bench, execution, store), bench.class_names, unfinished)
        unfinished.chmod(0o755)
        unfinished.replace(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return written


def _write(pictures: Iterator[_Picture], names: tuple[str, ...] | None, folder: Path) -> int:
    count = 0
    for kind in ("hard", "attacked"):
        (folder / kind).mkdir()
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(
            ["file", "id", "label", "class", "check", "attacked_label", "distance", "fools_as_png", "endurance"]
        )
        for picture in pictures:
            name = names[picture.label] if names is not None and picture.label < len(names) else f"{picture.label:04d}"
            path = Path(picture.folder) / _safe(name) / f"{_safe(picture.sample)}{picture.suffix}.png"
            (folder / path).parent.mkdir(exist_ok=True)
            _as_image(picture.image).save(folder / path)
            facts = (picture.check, picture.attacked_label, picture.distance, picture.fools_as_png, picture.endurance)
            told = ["" if fact is None else fact for fact in facts]
            lines.writerow([path.as_posix(), picture.sample, picture.label, name, *told])
            count += 1
    return count


def _pictures(bench: Workbench, execution: Execution, store: Store) -> Iterator[_Picture]:
    units: list[dict[str, str]] = [{} for _ in execution.shards]
    for (key, shard), digest in sorted(execution.units.items()):
        if key not in execution.failures:
            units[shard][key] = digest
    for (start, stop), of_shard in zip(bench.shards, units, strict=False):
        samples = bench.read(start, stop).samples
        endurance = None
        if _HARD in of_shard:
            columns = store.get_numbers(of_shard[_HARD])[0].findings.columns
            endurance = columns["endurance"]
            yield from _hard(samples, columns)
        # One unit at a time: the attacked images of all attacks can be many times those of the shard.
        for key, digest in of_shard.items():
            findings = store.get(digest).findings
            if findings.attacked is not None:
                yield from _attacked(samples, key, findings, endurance)


def _hard(samples: Samples, columns: Mapping[str, npt.NDArray[Any]]) -> Iterator[_Picture]:
    for row in columns["hard"].nonzero()[0].tolist():
        label, endurance = int(samples.labels[row]), float(columns["endurance"][row])
        yield _Picture("hard", samples.ids[row], label, samples.images[row], endurance=endurance)


def _attacked(samples: Samples, key: str, findings: Findings, endurance: npt.NDArray[Any] | None) -> Iterator[_Picture]:
    columns = findings.columns
    assert findings.attacked is not None  # noqa: S101 (the caller looked)
    for at, row in enumerate(columns["found"].nonzero()[0].tolist()):
        if not columns["fooled"][row]:
            continue
        yield _Picture(
            folder="attacked",
            sample=samples.ids[row],
            label=int(samples.labels[row]),
            image=from_16bit(findings.attacked[at]),
            suffix=f".{_safe(key)}",
            check=key,
            attacked_label=int(columns["attacked_label"][row]),
            distance=float(columns["distance"][row]),
            fools_as_png=not columns["lost_to_rounding"][row],
            endurance=None if endurance is None else float(endurance[row]),
        )


def _safe(name: str) -> str:
    """Return a name that every file system takes; different names stay different."""
    safe = _UNSAFE.sub("_", name).strip(".")[:_LONGEST_NAME]
    return safe if safe and safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _as_image(image: Tensor) -> Image.Image:
    pixels = (image.detach().cpu() * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
