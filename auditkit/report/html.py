"""The result as a web page: one file to mail, or a folder that stands under a strict security policy."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy.typing as npt
from markupsafe import Markup

from auditkit.report import text
from auditkit.report.colour_bars import colour_bars
from auditkit.report.fields import field_rows, field_text
from auditkit.report.gallery import Gallery, Layout, hang
from auditkit.report.page import PageView, anchor, build_page
from auditkit.result import Result

__all__ = ["Page", "render_html", "write_html"]

_TEMPLATES = "auditkit.report_templates"
# Somewhat below two megabytes, so that a single file can be mailed.
_SINGLE_BYTES = 1_950_000
_STALE = re.compile(r"[0-9a-f]{16}\.png")


@dataclass(frozen=True)
class Page:
    """A rendered report: the page, and by relative name the files it needs (none in the single layout)."""

    html: str
    files: dict[str, bytes]


def render_html(result: Result, arrays: Mapping[str, npt.NDArray[Any]], *, layout: Layout) -> Page:
    """Return the report of `result`; the same input gives the same bytes.

    Args:
        result: The stored result.
        arrays: The content of `exhibits.npz`: the arrays that panels name. Missing ones show as a note.
        layout: `single` embeds style and pictures; `folder` refers to `Page.files` and holds no inline style.
    """
    page = build_page(result, layout)
    css = resources.files(_TEMPLATES).joinpath("report.css").read_text(encoding="utf-8")
    if layout == "folder":
        gallery = hang(result.checks, arrays, layout, None)
        return Page(_render(page, gallery, None), gallery.files | {"style.css": css.encode()})
    bare = _render(page, Gallery({}, {}, {}), css)
    gallery = hang(result.checks, arrays, layout, _SINGLE_BYTES - len(bare.encode()))
    return Page(_render(page, gallery, css), gallery.files)


def _render(page: PageView, gallery: Gallery, css: str | None) -> str:
    """Return the page; without a style sheet of its own it refers to the one beside it."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            page=page,
            hung=gallery,
            # Colours and a style sheet: the package's own, no text from anywhere.
            colour_bars=Markup(colour_bars() if gallery.has_maps else ""),  # noqa: S704
            css=None if css is None else Markup(css),  # noqa: S704
        )
    )


def write_html(result: Result, arrays: Mapping[str, npt.NDArray[Any]], path: Path) -> Path:
    """Write the report of `result` to a file (`path` ends in `.html`) or a folder; return the page's path.

    Each file appears whole or not at all, and the page last, so a reader never meets half a report.
    """
    if path.suffix.lower() in (".html", ".htm"):
        _replace(path, render_html(result, arrays, layout="single").html.encode())
        return path
    page = render_html(result, arrays, layout="folder")
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


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(_TEMPLATES, ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {
        "anchor": anchor,
        "estimate": text.estimate_text,
        "field": field_text,
        "fields": field_rows,
        "interval": text.interval_text,
        "metric_title": text.metric_title,
        "required": text.requirement_text,
        "value": text.value_text,
    }
    environment.globals["plural"] = text.plural
    return environment


def _finalize(value: object) -> object:
    return text.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
