"""What mkdocs calls while it builds the site: adds generated pages, completes the navigation, sets formulas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from check_pages import checks_reference
from cli_pages import command_line, settings_page
from flag_pages import flag_pages, flags_overview
from formulas import with_mathml
from markdown import Extension, Markdown
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from python_pages import python_pages
from repository import REPOSITORY_PAGES, Mirror, slug, with_titles

_ROOT = Path(__file__).parents[2]
_OTHER_PAGES_GO_TO = "How-to"
_MIRROR = "mirror"


class _Commonmark(Extension):  # type: ignore[misc]  # Markdown has no types
    """Two spaces are enough to belong to a list item, as on GitHub."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.tab_length = 2


def on_config(config: MkDocsConfig) -> None:
    """Read the pages as GitHub does: the same anchors, the same lists."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    config.markdown_extensions.append(_Commonmark())


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that are made from the code and from files beside the docs, and complete the navigation."""
    written = [file for file in files.documentation_pages() if file.src_uri != "flags.md"]
    mirror = config.extra[_MIRROR] = Mirror(_ROOT, frozenset(file.src_uri for file in files))
    texts = {file.src_uri: file.content_string for file in written}
    generated = {
        **flag_pages(_ROOT),
        **python_pages(),
        "reference/checks.md": checks_reference(),
        "reference/commands.md": command_line(),
        "reference/settings.md": settings_page(),
        **mirror.pages(texts, REPOSITORY_PAGES),
    }
    for uri, content in generated.items():
        files.append(File.generated(config, uri, content=content))
    uris = sorted(file.src_uri for file in files.documentation_pages())
    config.nav = _complete([_filled(section, uris) for section in config.nav or ()], uris)


def _filled(section: dict[str, list[Any]], uris: list[str]) -> dict[str, list[Any]]:
    """Return the section with each folder in it replaced by the pages below it."""
    ((title, entries),) = section.items()
    return {title: [inner for entry in entries for inner in _entries(entry, uris)]}


def _entries(entry: Any, uris: list[str]) -> Iterator[Any]:
    if not isinstance(entry, str) or not entry.endswith("/"):
        yield entry
        return
    families: dict[str, list[str]] = {}
    for uri in uris:
        if uri.startswith(entry):
            families.setdefault(uri.removeprefix(entry).partition(".")[0], []).append(uri)
    grouped = entry in ("checks/", "detector_checks/", "flags/")
    for family, members in families.items():
        if grouped:
            yield {family: members}
        else:
            yield from members


def _complete(nav: list[dict[str, list[Any]]], uris: list[str]) -> list[dict[str, list[Any]]]:
    """Put top-level pages that the navigation does not name at the end of the section for readers' tasks."""
    named = {uri for section in nav for entry in next(iter(section.values())) for uri in _uris(entry)}
    tasks = next(section[_OTHER_PAGES_GO_TO] for section in nav if _OTHER_PAGES_GO_TO in section)
    tasks += [uri for uri in uris if "/" not in uri and uri not in named]
    return nav


def _uris(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values():
            yield from [inner] if isinstance(inner, str) else inner


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Give code blocks the names of their files, and lead links out of the docs to their copies in the site."""
    if page.file.src_uri == "flags.md":
        return flags_overview(_ROOT)
    return with_titles(config.extra[_MIRROR].relinked(markdown, page.file.src_uri))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn formulas into MathML."""
    return with_mathml(html, page.file.src_uri)
