"""One page a flag: what the code says about it, and the paragraph that `docs/flags.md` adds."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from check_pages import FOLDERS, built_in_checks
from repository import slug

from auditkit import FlagRule, Spec
from auditkit.models.preprocess import Preprocessing
from auditkit.preflight.options import changed_aspects

__all__ = ["Raiser", "check_flags", "flag_pages", "flags_overview", "preflight_notes", "written_sections"]

_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_PREFLIGHT = "preflight."
_ANOTHER_WAY = Preprocessing(
    input_range=(0.0, 255.0), mean=(0.5,), std=(0.5,), channel_order="bgr", layout="nhwc", outputs="probabilities"
)


class Raiser(NamedTuple):
    """A check that raises a flag: its page below the docs, what it says about itself, and when it does."""

    page: str
    spec: Spec
    rule: FlagRule


def check_flags() -> dict[str, list[Raiser]]:
    """Return every flag that a built-in check can raise, with the checks and their rules."""
    found: dict[str, list[Raiser]] = {}
    for group, folder in FOLDERS.items():
        for kind in built_in_checks(group):
            for rule in kind.spec.flags:
                found.setdefault(rule.id, []).append(Raiser(f"{folder}/{kind.spec.id}.md", kind.spec, rule))
    return dict(sorted(found.items()))


def preflight_notes(root: Path) -> tuple[str, ...]:
    """Return the id of every note that the preflight can make, as its code names them."""
    names = set(changed_aspects(Preprocessing(), _ANOTHER_WAY))
    for file in (root / "auditkit" / "preflight").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("info", "warning"):
                names |= {
                    arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
                }
    return tuple(sorted(_PREFLIGHT + name for name in names))


def written_sections(root: Path) -> tuple[str, dict[str, str]]:
    """Return how `docs/flags.md` begins, and its sections by their headings."""
    first, *rest = _HEADING.split((root / "docs" / "flags.md").read_text(encoding="utf-8"))
    return first, {heading: text.strip() for heading, text in zip(rest[::2], rest[1::2], strict=True)}


def flags_overview(root: Path) -> str:
    """Return the page that lists all flags, in place of the one with all paragraphs."""
    first, _ = written_sections(root)
    lines = [first.strip(), "", "## Flags of checks", "", "| flag | what it means |", "|---|---|"]
    lines += [f"| [`{name}`](flags/{name}.md) | {raisers[0].rule.text} |" for name, raisers in check_flags().items()]
    lines += ["", "## Notes of the preflight", ""]
    lines += [f"- [`{name}`](flags/{name}.md)" for name in preflight_notes(root)]
    return "\n".join(lines) + "\n"


def flag_pages(root: Path) -> dict[str, str]:
    """Return the page of every flag and of every note of the preflight.

    Raises:
        KeyError: `docs/flags.md` has no section for one of them.
    """
    _, sections = written_sections(root)
    written = {name: _from_subfolder(text, sections) for name, text in sections.items()}
    pages = {f"flags/{name}.md": _flag(name, raisers, written[name]) for name, raisers in check_flags().items()}
    return pages | {f"flags/{name}.md": _note(name, written[name]) for name in preflight_notes(root)}


def _flag(name: str, raisers: list[Raiser], why: str) -> str:
    rule = raisers[0].rule
    lines = [f"# {name}", "", "## What it means", "", rule.text, "", "## Why it matters", "", why]
    lines += ["", "## What to do", "", rule.remedy, "", "## Who raises it", ""]
    lines += ["| check | when |", "|---|---|", *map(_raiser, raisers), ""]
    if rule.doubts:
        lines += ["## What it keeps from passing", "", *_doubts(rule)]
    return "\n".join(lines) + "\n"


def _raiser(raiser: Raiser) -> str:
    rule = raiser.rule
    condition = f"`{rule.metric}` is above {rule.above:g}"
    if rule.each_class:
        condition += ", for single classes, by the whole interval"
    return f"| [`{raiser.spec.id}`](../{raiser.page}) | {condition} |"


def _doubts(rule: FlagRule) -> Iterator[str]:
    needs = " or ".join(f"`{need.value}`" for need in rule.doubts)
    yield f"While it is up, a requirement on a check that needs {needs} is [inconclusive](../gates.md#doubt) at best."


def _note(name: str, text: str) -> str:
    lead = (
        "The preflight looks at the model and at up to 256 of the images before any check runs. Its note says what it "
        "found on yours, with the numbers and the option that would help. Notes change no verdict."
    )
    return f"# {name}\n\n{lead}\n\n{text}\n"


def _from_subfolder(text: str, written: Iterable[str]) -> str:
    """Let links that start in `docs/flags.md` start in a page of its own."""
    pages = {f"(#{slug(name)})": f"({name}.md)" for name in written}
    text = re.sub(r"\]\((?!https:|#)", "](../", text)
    return re.sub(r"\(#[^)]+\)", lambda anchor: pages[anchor[0]], text)
