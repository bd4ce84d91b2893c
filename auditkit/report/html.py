"""The result as a web page: one file to mail, or a folder that stands under a strict security policy."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
from markupsafe import Markup

from auditkit.report.colour_bars import colour_bars
from auditkit.report.environment import blamed, environment_of, style_of_page
from auditkit.report.gallery import Gallery, HungExhibit, Layout, hang, hang_one
from auditkit.report.marks import FIRST_SCREEN_PEN
from auditkit.report.page import PageView, build_page
from auditkit.report.telling import Telling, telling_exhibit
from auditkit.result import Result

__all__ = ["Page", "render_html", "write_html"]

# Somewhat below two megabytes, so that a single file can be mailed.
_SINGLE_BYTES = 1_950_000
_STALE = re.compile(r"[0-9a-f]{16}\.png")


@dataclass(frozen=True)
class Page:
    """A rendered report: the page, and by relative name the files it needs (none in the single layout)."""

    html: str
    files: dict[str, bytes]


def render_html(
    result: Result, arrays: Mapping[str, npt.NDArray[Any]], *, layout: Layout, templates: Path | None = None
) -> Page:
    """Return the report of `result`; the same input gives the same bytes.

    Args:
        result: The stored result.
        arrays: The content of `exhibits.npz`: the arrays that panels name. Missing ones show as a note.
        layout: `single` embeds style and pictures; `folder` refers to `Page.files` and holds no inline style.
        templates: A folder of the user's templates and style sheets, which come before the package's.

    Raises:
        UsageError: `templates` is no folder, or something in it is broken; the message names file and line.
    """
    with blamed(templates):
        return _Rendering(result, arrays, layout, templates).page()


@dataclass(frozen=True)
class _Rendering:
    """One page on its way."""

    result: Result
    arrays: Mapping[str, npt.NDArray[Any]]
    layout: Layout
    templates: Path | None

    def page(self) -> Page:
        """Return the page with as many pictures as its layout has room for."""
        css = style_of_page(self.templates)
        view = build_page(self.result, self.layout)
        first, files = self._first_picture()
        if self.layout == "folder":
            gallery = hang(self.result.checks, self.arrays, self.layout, None)
            return Page(self._render(view, first, gallery, None), gallery.files | files | {"style.css": css.encode()})
        bare = self._render(view, first, Gallery({}, {}, {}), css)
        gallery = hang(self.result.checks, self.arrays, self.layout, _SINGLE_BYTES - len(bare.encode()))
        return Page(self._render(view, first, gallery, css), {})

    def _first_picture(self) -> tuple[tuple[Telling, HungExhibit] | None, dict[str, bytes]]:
        telling = telling_exhibit(self.result, self.arrays)
        if telling is None:
            return None, {}
        hung, files = hang_one(telling.exhibit, self.arrays, self.layout, FIRST_SCREEN_PEN)
        return (telling, hung), files

    def _render(
        self, page: PageView, first: tuple[Telling, HungExhibit] | None, gallery: Gallery, css: str | None
    ) -> str:
        """Return the page; without a style sheet of its own it refers to the one beside it."""
        return (
            environment_of(self.templates)
            .get_template("report.html.j2")
            .render(
                page=page,
                telling=first[0] if first is not None else None,
                first=first[1] if first is not None else None,
                hung=gallery,
                # Colours and a style sheet: the package's own or the user's, no text of the result.
                colour_bars=Markup(colour_bars() if gallery.has_maps else ""),  # noqa: S704
                css=None if css is None else Markup(css),  # noqa: S704
            )
        )


def write_html(
    result: Result, arrays: Mapping[str, npt.NDArray[Any]], path: Path, templates: Path | None = None
) -> Path:
    """Write the report of `result` to a file (`path` ends in `.html`) or a folder; return the page's path.

    Each file appears whole or not at all, and the page last, so a reader never meets half a report. The user's
    `templates` are as in `render_html`.

    Raises:
        UsageError: `templates` is no folder, or something in it is broken.
    """
    if path.suffix.lower() in (".html", ".htm"):
        _replace(path, render_html(result, arrays, layout="single", templates=templates).html.encode())
        return path
    page = render_html(result, arrays, layout="folder", templates=templates)
    for name, content in sorted(page.files.items()):
        _replace(path / name, content)
    _replace(path / "index.html", page.html.encode())
    _remove_stale(path / "images", {Path(name).name for name in page.files})
    return path / "index.html"


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_stale(folder: Path, wanted: set[str]) -> None:
    """Remove the pictures of an earlier report, and nothing that a report would not have written."""
    for picture in folder.glob("*.png"):
        if picture.name not in wanted and _STALE.fullmatch(picture.name):
            picture.unlink()
