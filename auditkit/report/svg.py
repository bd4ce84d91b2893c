"""Make matplotlib's SVG fit to stand inside a page that forbids inline styles."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

__all__ = ["INK", "inline_svg"]

INK = "#010203"
"""The colour to draw with wherever the page's own text colour is meant."""

_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT_SIZE = re.compile(r"([\d.]+)px")
_PAGE_DECIDES = {"font-family", "font-stretch", "font-variant"}
# A hundredth of a pixel is more than one sees; a third of the bytes are digits beyond it.
_PLACES = {"d", "x", "y", "width", "height", "transform"}
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_ROOT_KEEPS = {"viewBox"}


def inline_svg(svg: str, *, prefix: str, title: str, description: str) -> str:
    """Return matplotlib's `svg` as an element for a page: no style, no namespace, ids under `prefix`.

    Presentation attributes stand in for every style, so a strict content-security policy changes nothing.
    """
    source = ET.fromstring(svg)  # noqa: S314 (matplotlib has just written it)
    root = ET.Element("svg", {name: value for name, value in source.items() if name in _ROOT_KEEPS})
    root.set("role", "img")
    root.set("class", "figure")
    root.set("aria-labelledby", f"{prefix}-title {prefix}-desc")
    # matplotlib's only style rule, inherited here instead.
    root.set("stroke-linejoin", "round")
    root.set("stroke-linecap", "butt")
    ET.SubElement(root, "title", id=f"{prefix}-title").text = title
    ET.SubElement(root, "desc", id=f"{prefix}-desc").text = description
    wanted = set(_references(source))
    for child in source:
        if (copy := _copy(child, prefix, wanted)) is not None:
            root.append(copy)
    return ET.tostring(root, encoding="unicode")


def _references(root: ET.Element) -> Iterator[str]:
    for element in root.iter():
        for name, value in element.items():
            if _local(name) == "href":
                yield value.removeprefix("#")
            else:
                yield from _REFERENCE.findall(value)


def _copy(element: ET.Element, prefix: str, wanted: set[str]) -> ET.Element | None:
    tag = _local(element.tag)
    if tag in {"metadata", "style"}:
        return None
    copy = ET.Element(tag, dict(_attributes(element, prefix, wanted)))
    copy.text = element.text if element.text and element.text.strip() else None
    copy.extend([part for child in element if (part := _copy(child, prefix, wanted)) is not None])
    return None if tag == "g" and not len(copy) and "id" not in copy.attrib else copy


def _attributes(element: ET.Element, prefix: str, wanted: set[str]) -> Iterator[tuple[str, str]]:
    for name, value in element.items():
        name = _local(name)
        if name == "style":
            for declaration in value.split(";"):
                yield from _presentation(declaration)
        elif name == "id":
            if value in wanted:
                yield name, f"{prefix}-{value}"
        elif name == "href":
            yield name, f"#{prefix}-{value.removeprefix('#')}"
        else:
            value = _LONG_NUMBER.sub(_rounded, value) if name in _PLACES else value
            yield name, _REFERENCE.sub(rf"url(#{prefix}-\1)", value)


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _presentation(declaration: str) -> Iterator[tuple[str, str]]:
    name, _, value = (part.strip() for part in declaration.partition(":"))
    if name == "font":
        # The shorthand has no attribute; size is the part of it that the layout rests on.
        if size := _FONT_SIZE.search(value):
            yield "font-size", size[1]
    elif name and name not in _PAGE_DECIDES:
        yield name, "currentColor" if value == INK else value


def _local(name: str) -> str:
    return name.rpartition("}")[2]
