"""Formulas as MathML, which browsers show without scripts or fonts from elsewhere."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

__all__ = ["with_mathml"]

# What pymdownx.arithmatex makes of $...$ and $$...$$ in its generic form.
_FORMULA = re.compile(
    r'<(span|div) class="arithmatex">(?:\\\((?P<inline>.*?)\\\)|\\\[(?P<display>.*?)\\\])</\1>', re.DOTALL
)

# What the converter does not know, in words that it does.
_IN_OTHER_WORDS = {r"\arg": r"\operatorname{arg}"}


def with_mathml(page: str, uri: str) -> str:
    """Return the HTML of a page with its formulas as MathML, each with its source for readers of the markup.

    Raises:
        ValueError: a command in a formula is not known, and would be shown as it is typed.
    """
    return _FORMULA.sub(lambda match: _mathml(match, uri), page)


def _mathml(match: re.Match[str], uri: str) -> str:
    is_display = match["display"] is not None
    source = html.unescape(match["display"] if is_display else match["inline"]).strip()
    known = re.sub(r"\\[A-Za-z]+", lambda command: _IN_OTHER_WORDS.get(command[0], command[0]), source)
    # It leaves the backslash before an underscore in a text.
    mathml = convert(known, display="block" if is_display else "inline").replace(r"\_", "_")
    if unknown := re.search(r">[^<]*(\\[A-Za-z]*)", mathml):
        raise ValueError(f"{uri}: {unknown[1]} in the formula {source} cannot be shown")
    return mathml.replace("<math ", f'<math alttext="{html.escape(source)}" ', 1)
