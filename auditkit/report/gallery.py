"""Hang the exhibits: which pictures a page shows, and where each of them lies."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import numpy.typing as npt

from auditkit.report.pictures import Picture, draw_exhibit
from auditkit.result import CheckRecord, ExhibitRecord

__all__ = ["Gallery", "HungExhibit", "HungPanel", "Layout", "hang"]

Layout = Literal["single", "folder"]

# Characters of pictures in a single file, so that it can be mailed.
_SINGLE_BUDGET = 1_600_000


@dataclass(frozen=True)
class HungPanel:
    """One picture of a row; `source` is None where the picture was not stored."""

    title: str
    scale: str
    source: str | None
    alt: str
    width: int
    height: int


@dataclass(frozen=True)
class HungExhibit:
    """One row of pictures about one sample."""

    sample: str
    caption: str
    panels: tuple[HungPanel, ...]


@dataclass(frozen=True)
class Gallery:
    """The rows of each check (by key), how many were left out for size, and the files that they need."""

    rows: dict[str, tuple[HungExhibit, ...]]
    left_out: dict[str, int]
    files: dict[str, bytes]


def hang(checks: Sequence[CheckRecord], arrays: Mapping[str, npt.NDArray[Any]], layout: Layout) -> Gallery:
    """Return the gallery of all checks; a single file takes every check's first row before any second."""
    rows: dict[str, list[HungExhibit]] = {check.key: [] for check in checks}
    left_out = dict.fromkeys(rows, 0)
    files: dict[str, bytes] = {}
    spent = 0
    for round_ in zip_longest(*(check.exhibits for check in checks)):
        for check, exhibit in zip(checks, round_, strict=True):
            if exhibit is None:
                continue
            pictures = draw_exhibit(exhibit, arrays)
            sources = [_source(picture, layout) for picture in pictures]
            cost = sum(len(source) for source in sources if source is not None)
            if layout == "single" and spent + cost > _SINGLE_BUDGET:
                left_out[check.key] += 1
                continue
            spent += cost
            rows[check.key].append(_row(exhibit, pictures, sources))
            if layout == "folder":
                files |= {s: p.png for s, p in zip(sources, pictures, strict=True) if s and p is not None}
    return Gallery({key: tuple(found) for key, found in rows.items()}, left_out, files)


def _source(picture: Picture | None, layout: Layout) -> str | None:
    if picture is None:
        return None
    if layout == "single":
        return "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")
    # Named by content: equal pictures are stored once, and a name never changes its meaning.
    return f"images/{hashlib.sha256(picture.png).hexdigest()[:16]}.png"


def _row(exhibit: ExhibitRecord, pictures: Sequence[Picture | None], sources: Sequence[str | None]) -> HungExhibit:
    panels = tuple(
        HungPanel(
            title=panel.title,
            scale=picture.scale if picture is not None else "",
            source=source,
            alt=f"{panel.title}, {exhibit.sample}: {exhibit.caption}",
            width=picture.width if picture is not None else 0,
            height=picture.height if picture is not None else 0,
        )
        for panel, picture, source in zip(exhibit.panels, pictures, sources, strict=True)
    )
    return HungExhibit(exhibit.sample, exhibit.caption, panels)
