"""The templates of the page: the package's own, and before them those of the user."""

from __future__ import annotations

import functools
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import jinja2
from jinja2 import meta, sandbox
from markupsafe import Markup

from auditkit.errors import UsageError, did_you_mean
from auditkit.report import text
from auditkit.report.fields import field_rows, field_text
from auditkit.report.gallery import shown_tones
from auditkit.report.page import anchor
from auditkit.report.terms import TERMS
from auditkit.report.tones import TONES, tone_swatch

__all__ = ["blamed", "environment_of", "style_of_page"]

_TEMPLATES = "auditkit.report_templates"
_PREFIX = "auditkit"
# The swatches are markup of the package's own.
_TONES = {
    name: {"swatch": Markup(tone_swatch(name)), "word": tone.word, "meaning": tone.meaning}  # noqa: S704
    for name, tone in TONES.items()
}
_STYLE, _ADDED_STYLE = "report.css", "custom.css"


def environment_of(templates: Path | None) -> jinja2.Environment:
    """Return the environment that renders the page; templates of the folder `templates` come before the package's.

    Those run in Jinja's sandbox: they see what the page is made of, and nothing of the machine.

    Raises:
        UsageError: there is no such folder, it holds no template, or one that no template asks for.
    """
    return _own_environment() if templates is None else _users_environment(templates)


def style_of_page(templates: Path | None) -> str:
    """Return the style sheet: the user's `report.css` or the package's, then the user's `custom.css`, if there.

    Raises:
        UsageError: a style sheet of the user cannot be read, or ends the element that holds it.
    """
    own = _read_style(templates, _STYLE)
    if own is None:
        own = resources.files(_TEMPLATES).joinpath(_STYLE).read_text(encoding="utf-8")
    return own + (_read_style(templates, _ADDED_STYLE) or "")


def _read_style(templates: Path | None, name: str) -> str | None:
    if templates is None or not (templates / name).is_file():
        return None
    css = _text_of(templates / name)
    if "</" in css:
        line = css[: css.index("</")].count("\n") + 1
        raise UsageError(f"{templates / name}:{line}: a style sheet cannot hold '</', which would end it in a page")
    return css


@contextmanager
def blamed(templates: Path | None) -> Iterator[None]:
    """Turn an error of a user's template into one line that names its file and line; others pass as they are.

    Raises:
        UsageError: a template in the folder `templates` is broken.
    """
    try:
        yield
    except jinja2.TemplateSyntaxError as error:
        if templates is None or not _within(error.filename, templates):
            raise
        raise UsageError(f"{error.filename}:{error.lineno}: {error.message}") from None
    except Exception as error:
        place = None if templates is None else _place(error, templates)
        if place is None:
            raise
        raise UsageError(f"{place}: {_in_words(error)}") from None


def _in_words(error: Exception) -> str:
    if isinstance(error, jinja2.TemplateNotFound):
        name = str(error.name or "")
        return f"there is no template {name}{did_you_mean(name, _own_environment().list_templates())}"
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _place(error: Exception, templates: Path) -> str | None:
    """Return file and line of the user's template in which the error arose."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((f"{f.filename}:{f.lineno}" for f in reversed(frames) if _within(f.filename, templates)), None)


def _within(file: str | None, templates: Path) -> bool:
    return file is not None and Path(file).is_relative_to(templates)


@functools.cache
def _own_environment() -> jinja2.Environment:
    return _furnished(
        jinja2.Environment(
            loader=jinja2.PackageLoader(_TEMPLATES, ""),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_finalize,
        )
    )


def _users_environment(templates: Path) -> jinja2.Environment:
    if not templates.is_dir():
        raise UsageError(f"--templates wants a folder of templates; {templates} is {_what(templates)}")
    package = jinja2.PackageLoader(_TEMPLATES, "")
    # With the prefix, a template can include or extend the one that it stands in for.
    loaders = [jinja2.FileSystemLoader(templates), package, jinja2.PrefixLoader({_PREFIX: package})]
    environment = _furnished(
        sandbox.ImmutableSandboxedEnvironment(
            loader=jinja2.ChoiceLoader(loaders),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_finalize,
        )
    )
    _demand_use(environment, templates)
    return environment


def _what(path: Path) -> str:
    return "a file" if path.exists() else "not there"


def _demand_use(environment: jinja2.Environment, templates: Path) -> None:
    """Make sure that the folder changes something, and that no template in it lies there in vain: a mistyped name."""
    given = sorted(path.name for path in templates.glob("*.j2") if path.is_file())
    styles = [name for name in (_STYLE, _ADDED_STYLE) if (templates / name).is_file()]
    if not given and not styles:
        raise UsageError(f"{templates} holds no template (*.html.j2), no {_STYLE} and no {_ADDED_STYLE}")
    known = _own_environment().list_templates(["j2"])
    asked: set[str | None] = set()
    for name in given:
        parsed = environment.parse(_text_of(templates / name), name, os.fspath(templates / name))
        asked.update(meta.find_referenced_templates(parsed))
    for name in given:
        if name not in known and name not in asked and None not in asked:
            raise UsageError(f"{templates / name} is asked for by no template{did_you_mean(name, known)}")


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read ({error})") from None


def _furnished(environment: jinja2.Environment) -> jinja2.Environment:
    environment.filters |= {
        "anchor": anchor,
        "counted": text.counted,
        "estimate": text.estimate_text,
        "field": field_text,
        "fields": field_rows,
        "interval": text.interval_text,
        "metric_title": text.metric_title,
        "required": text.requirement_text,
        "shown_tones": shown_tones,
        "tied": _tied,
        "value": text.value_text,
    }
    environment.globals |= {"plural": text.plural, "terms": TERMS, "tones": _TONES}
    return environment


def _tied(sentence: str) -> str:
    """Return a sentence in which no line breaks between a number and its sign."""
    return re.sub("(?<=[\\d≥≤<>]) (?=[%\\d])", "\N{NO-BREAK SPACE}", sentence)


def _finalize(value: object) -> object:
    return text.clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
