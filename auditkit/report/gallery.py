"""Hang the exhibits: which pictures a page shows, and where each of them lies."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

import numpy.typing as npt

from auditkit.report.heat import HeatScale
from auditkit.report.marks import GALLERY_PEN, Pen
from auditkit.report.pictures import Drawn, Picture, draw_exhibit
from auditkit.report.tones import TONES, counted_tones, tones_among
from auditkit.result import CheckRecord, ExhibitRecord, PanelRecord

__all__ = ["Gallery", "HungExhibit", "HungPanel", "Layout", "hang", "hang_one", "shown_tones"]

Layout = Literal["single", "folder"]
Bar = Literal["heat", "overlay"]

_MARKUP_OF_A_ROW, _MARKUP_OF_A_PANEL = 500, 250
_MAPS: tuple[Bar, ...] = ("heat", "overlay")


@dataclass(frozen=True)
class HungPanel:
    """One picture of a row; `source` is None where the picture was not stored."""

    title: str
    scale: str
    source: str | None
    alt: str
    width: int
    height: int
    marked: bool
    tones: tuple[str, ...]
    """Those of the boxes on it."""


@dataclass(frozen=True)
class HungExhibit:
    """One row of pictures about one sample; where it has maps, `bars` names the colour bars of their scale."""

    sample: str
    caption: str
    panels: tuple[HungPanel, ...]
    heat: HeatScale
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Gallery:
    """The rows of each check (by key), how many were left out for size, and the files that they need."""

    rows: dict[str, tuple[HungExhibit, ...]]
    left_out: dict[str, int]
    files: dict[str, bytes]

    @property
    def has_maps(self) -> bool:
        """Whether any row needs a colour bar."""
        return any(row.bars for rows in self.rows.values() for row in rows)


def hang(
    checks: Sequence[CheckRecord], arrays: Mapping[str, npt.NDArray[Any]], layout: Layout, room: int | None
) -> Gallery:
    """Return the gallery of all checks: every check's first row before any second, while `room` bytes hold them.

    Where one row of a check has no room, those behind it have none either: the best are shown, without a gap.
    """
    rows: dict[str, list[HungExhibit]] = {check.key: [] for check in checks}
    left_out = dict.fromkeys(rows, 0)
    files: dict[str, bytes] = {}
    spent = 0
    with ThreadPoolExecutor() as drawers:
        for round_ in zip_longest(*(check.exhibits for check in checks)):
            found = [(check.key, one) for check, one in zip(checks, round_, strict=True) if one is not None]
            shown = [(key, one) for key, one in found if not left_out[key]]
            drawn = drawers.map(lambda one: hang_one(one, arrays, layout), [one for _, one in shown])
            for key in {key for key, _ in found} - {key for key, _ in shown}:
                left_out[key] += 1
            for (key, _), (row, pictures) in zip(shown, drawn, strict=True):
                if room is not None and spent + _size(row) > room:
                    left_out[key] += 1
                    continue
                spent += _size(row)
                rows[key].append(row)
                files |= pictures
    return Gallery({key: tuple(found) for key, found in rows.items()}, left_out, files)


def hang_one(
    exhibit: ExhibitRecord, arrays: Mapping[str, npt.NDArray[Any]], layout: Layout, pen: Pen = GALLERY_PEN
) -> tuple[HungExhibit, dict[str, bytes]]:
    """Return one row of pictures, and the files that it needs (none in the single layout)."""
    drawn = draw_exhibit(exhibit, arrays, pen)
    sources = [_source(picture, layout) for picture in drawn.pictures]
    pairs = zip(sources, drawn.pictures, strict=True) if layout == "folder" else ()
    return _row(exhibit, drawn, sources), {source: picture.png for source, picture in pairs if source and picture}


def shown_tones(rows: Sequence[HungExhibit]) -> tuple[str, ...]:
    """Return the tones of all boxes on the pictures of these rows, in the order of legends."""
    found = {tone for row in rows for panel in row.panels for tone in panel.tones}
    return tuple(name for name in TONES if name in found)


def _source(picture: Picture | None, layout: Layout) -> str | None:
    if picture is None:
        return None
    if layout == "single":
        return "data:image/png;base64," + base64.b64encode(picture.png).decode("ascii")
    # Named by content: equal pictures are stored once, and a name never changes its meaning.
    return f"images/{hashlib.sha256(picture.png).hexdigest()[:16]}.png"


def _row(exhibit: ExhibitRecord, drawn: Drawn, sources: Sequence[str | None]) -> HungExhibit:
    panels = tuple(
        HungPanel(
            title=panel.title,
            scale=picture.scale if picture is not None else "",
            source=source,
            alt=f"{panel.title}, {exhibit.sample}: {exhibit.caption}{_boxes(panel, picture)}",
            width=picture.width if picture is not None else 0,
            height=picture.height if picture is not None else 0,
            marked=picture is not None and picture.marked,
            tones=tones_among(panel.marks) if picture is not None and picture.marked else (),
        )
        for panel, picture, source in zip(exhibit.panels, drawn.pictures, sources, strict=True)
    )
    shown = {panel.kind for panel, source in zip(exhibit.panels, sources, strict=True) if source is not None}
    bars = tuple(kind for kind in _MAPS if kind in shown and drawn.heat.top)
    return HungExhibit(exhibit.sample, exhibit.caption, panels, drawn.heat, bars)


def _boxes(panel: PanelRecord, picture: Picture | None) -> str:
    """Return what follows the caption in the alternative text: the boxes that are seen, in words."""
    return f"; {counted_tones(panel.marks)}" if picture is not None and picture.marked else ""


def _size(row: HungExhibit) -> int:
    """Return about how many bytes a row takes in a page."""
    texts = [row.caption, row.sample, *(f"{panel.title}{panel.alt}{panel.source}" for panel in row.panels)]
    return _MARKUP_OF_A_ROW + _MARKUP_OF_A_PANEL * len(row.panels) + sum(len(text.encode()) for text in texts)
