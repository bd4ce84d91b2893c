"""The reference of the Python interface: which name stands on which page; mkdocstrings writes them from the code."""

from __future__ import annotations

import auditkit

__all__ = ["python_pages"]

# By the module that a name comes from; a module that is not named here has its names on the last page.
_PAGES = {
    "audits": ("Audits and results", ("auditing", "result", "stats", "errors")),
    "checks": (
        "Checks and attacks",
        ("check", "context", "artifacts", "attack", "queries", "rows", "budgets", "threat", "streams", "exhibits"),
    ),
    "models": ("Models and samples", ("models", "samples", "activations", "bounding", "detection", "origin")),
    "tools": ("Tools for checks", ()),
}
_TESTING = "# Testing a check\n\nToy models with known answers, and the laws that every check keeps.\n\n"


def python_pages() -> dict[str, str]:
    """Return a page for each group of public names, and one for `auditkit.testing`."""
    names: dict[str, list[str]] = {page: [] for page in _PAGES}
    for name in auditkit.__all__:
        names[_page_of(auditkit._HOME_OF[name])].append(name)
    pages = {
        f"reference/python-{page}.md": f"# Python: {title.lower()}\n\n" + "\n".join(map(_entry, names[page]))
        for page, (title, _) in _PAGES.items()
    }
    return pages | {"reference/python-testing.md": _TESTING + _members("auditkit.testing")}


def _page_of(module: str) -> str:
    top = module.partition(".")[0]
    return next((page for page, (_, modules) in _PAGES.items() if top in modules), "tools")


def _entry(name: str) -> str:
    return f"::: auditkit.{name}\n"


def _members(module: str) -> str:
    return f"::: {module}\n    options:\n      show_root_heading: false\n      show_root_toc_entry: false\n"
