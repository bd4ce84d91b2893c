"""Pages are written to be read in the repository; here they are fitted to the site."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

__all__ = ["REPOSITORY_PAGES", "Mirror", "slug", "with_titles"]

REPOSITORY_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md")
_FOLDER = "repository"
_DOCS = "docs"
_LINK = re.compile(r"(\]\()([^)\s#]+)([^)\s]*\))")
_DIRECTIVE = re.compile(r"<!-- (file|exit|uses|not run): (.+) -->")
_FENCE = re.compile(r"```(\w+)")
_LANGUAGES = {"yml": "yaml", "sh": "bash", "py": "python"}


def slug(heading: str, separator: str = "-") -> str:
    """Return the anchor that a heading has in the repository, and in the site."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def with_titles(markdown: str) -> str:
    """Return the page with the names of files above their code, and without the directives to its tests."""
    lines: list[str] = []
    file, fenced = "", False
    for line in markdown.splitlines():
        if not fenced and (directive := _DIRECTIVE.fullmatch(line)):
            file = directive[2] if directive[1] == "file" else file
            continue
        if _FENCE.fullmatch(line):
            fenced = True
            line = f'{line} title="{file}"' if file else line
            file = ""
        elif line == "```":
            fenced = False
        lines.append(line)
    return "\n".join(lines) + "\n"


class Mirror:
    """Copies of files that lie beside the docs, for links to them."""

    def __init__(self, root: Path, docs: frozenset[str]) -> None:
        self._root = root
        self._docs = docs

    def pages(self, texts: Mapping[str, str], seeds: Iterable[str]) -> dict[str, str]:
        """Return a page for each file outside the docs that a page leads to, whether directly or through another one.

        Args:
            texts: The pages of the docs, by their place below it.
            seeds: Files that are wanted even if no page leads to them.
        """
        wanted = [*seeds, *(target for uri, text in texts.items() for target in self._outside(text, f"{_DOCS}/{uri}"))]
        pages: dict[str, str] = {}
        while wanted:
            path = wanted.pop()
            if self._uri(path) not in pages:
                text = (self._root / path).read_text(encoding="utf-8")
                pages[self._uri(path)] = text if path.endswith(".md") else _as_code(path, text)
                if path.endswith(".md"):
                    wanted += self._outside(text, path)
        return pages

    def relinked(self, markdown: str, uri: str) -> str:
        """Return the page with all links between the docs and the files beside them leading to pages of the site."""
        here = uri.removeprefix(f"{_FOLDER}/") if uri.startswith(f"{_FOLDER}/") else f"{_DOCS}/{uri}"

        def lead(match: re.Match[str]) -> str:
            path = self._path(match[2], here)
            if path is None:
                return match[0]
            return match[1] + posixpath.relpath(self._uri(path), posixpath.dirname(uri) or ".") + match[3]

        return _LINK.sub(lead, markdown)

    def _outside(self, markdown: str, here: str) -> Iterator[str]:
        for match in _LINK.finditer(markdown):
            path = self._path(match[2], here)
            if path is not None and not path.startswith(f"{_DOCS}/"):
                yield path

    def _path(self, target: str, here: str) -> str | None:
        """Return where a relative link leads in the repository; None where it leads nowhere there."""
        if "://" in target:
            return None
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        inside_docs = path.startswith(f"{_DOCS}/") and path.removeprefix(f"{_DOCS}/") in self._docs
        return path if inside_docs or (self._root / path).is_file() else None

    def _uri(self, path: str) -> str:
        if path.startswith(f"{_DOCS}/"):
            return path.removeprefix(f"{_DOCS}/")
        # mkdocs leaves out files whose name begins with a dot.
        shown = "/".join(part.removeprefix(".") for part in path.split("/"))
        return f"{_FOLDER}/{shown}" if path.endswith(".md") else f"{_FOLDER}/{shown}.md"


def _as_code(path: str, text: str) -> str:
    ending = path.rpartition(".")[2]
    language = _LANGUAGES.get(ending, ending if ending in ("toml", "json") else "text")
    return f"# {posixpath.basename(path)}\n\n`{path}` in the repository:\n\n````{language}\n{text.rstrip()}\n````\n"
