"""The docs site: it builds without a warning, loads nothing from elsewhere, and leaves nothing out."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from click import Group

import auditkit
from auditkit.cli import cli
from auditkit.config import Settings
from auditkit.registry import CHECKS, DETECTOR_CHECKS, entries, find, load_check

ROOT = Path(__file__).parents[1]
GENERATOR = ROOT / "docs" / "generator"
# The tests also run beside an installed wheel; the site is made from the source tree.
if not GENERATOR.is_dir() or not (ROOT / "auditkit").is_dir():
    pytest.skip("the docs and the code are not here", allow_module_level=True)
for needed in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
    pytest.importorskip(needed, reason=f"the docs site needs {needed}: see the extra docs")

POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
BUILT_IN = [(group, check_id) for group in (CHECKS, DETECTOR_CHECKS) for check_id in sorted(POINTS[group])]
# What a browser fetches by itself, and where it is named.
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
}


@dataclass
class Page(HTMLParser):
    """A page as a browser sees it: what it loads, where it leads, and which anchors it has."""

    file: Path
    loads: list[str] = field(default_factory=list)
    leads: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.leads.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("prev", "next"):
            self.loads.append(values["href"])
        elif tag in LOADED and LOADED[tag] in values:
            self.loads.append(values[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as CI builds it: any warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "--config-file", str(ROOT / "mkdocs.yml"), "--site-dir", str(folder / "site")],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site):
    return {file: Page(file) for file in sorted(site.rglob("*.html"))}


@cache
def text_of(file: Path) -> str:
    """Return the words of a page's article, without its markup."""
    content = file.read_text(encoding="utf-8").partition("<article")[2].partition("</article>")[0]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", content)).split())


def as_shown(text: str) -> str:
    return " ".join(text.replace("`", "").split())


def test_that_no_page_loads_anything_from_elsewhere(site, pages):
    loaded = {(file, address) for file, page in pages.items() for address in page.loads}
    assert len(loaded) > 300
    assert [(file, address) for file, address in loaded if urlsplit(address).netloc] == []
    assert [
        (file, name)
        for file, name in loaded
        if file.name != "404.html" and not (file.parent / urlsplit(name).path).is_file()
    ] == []
    for sheet in site.rglob("*.css"):
        assert not re.search(r"""(url\(|@import)\s*["']?(https?:)?//""", sheet.read_text(encoding="utf-8")), sheet


def test_that_every_link_of_the_site_leads_somewhere(site, pages):
    lost = []
    for file, page in pages.items():
        # The page for lost readers is shown at any address, so its links start at the root.
        for address in page.leads if file.name != "404.html" else ():
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            anchors = pages[target].anchors if target in pages else set()
            known = not parts.fragment or unquote(parts.fragment) in anchors or parts.fragment.startswith("__")
            if not target.is_relative_to(site) or not target.is_file() or not known:
                lost.append((str(file.relative_to(site)), address))
    assert lost == []


def test_that_every_page_of_the_docs_can_be_reached_from_the_navigation(site, pages):
    reached, waiting = set(), [site / "index.html"]
    while waiting:
        file = waiting.pop()
        if file in reached:
            continue
        reached.add(file)
        found = (
            (file.parent / unquote(urlsplit(address).path)).resolve()
            for address in pages[file].leads
            if urlsplit(address).path
        )
        waiting += [target for target in found if target in pages]
    assert set(pages) - reached == {site / "404.html"}
    wanted = {page.relative_to(ROOT / "docs").with_suffix(".html") for page in (ROOT / "docs").rglob("*.md")}
    assert wanted <= {file.relative_to(site) for file in pages}


@pytest.mark.parametrize(("group", "check_id"), BUILT_IN)
def test_that_every_flag_of_a_check_has_a_page_that_says_what_it_means_and_what_to_do(site, group, check_id):
    for rule in load_check(find(check_id, entries(group))).spec.flags:
        shown = text_of(site / "flags" / f"{rule.id}.html")
        for wanted in (as_shown(rule.text), as_shown(rule.remedy), check_id, f"{rule.metric} is above {rule.above:g}"):
            assert wanted in shown, f"{rule.id}: {wanted}"
        assert ("What it keeps from passing" in shown) == bool(rule.doubts)
        why = shown.partition("Why it matters")[2].partition("What to do")[0]
        assert len(why.split()) > 15, f"{rule.id}: why?"


def test_that_every_note_of_the_preflight_has_a_page(site):
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "auditkit" / "preflight").glob("*.py"))
    names = {
        *re.findall(r'(?:info|warning)\(\s*"(\w+)"', code),
        "layout",
        "input_range",
        "normalisation",
        "channel_order",
    }
    assert len(names) > 14
    found = {file.stem.removeprefix("preflight.") for file in (site / "flags").glob("preflight.*.html")}
    assert found == names


def test_that_no_section_describes_a_flag_that_is_gone(site):
    sections = re.findall(r"^## (.+)$", (ROOT / "docs" / "flags.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(sections) == sorted(file.stem for file in (site / "flags").glob("*.html"))
    overview = text_of(site / "flags.html")
    assert [section for section in sections if section not in overview] == []


def test_that_the_reference_of_python_holds_every_public_name(site, pages):
    anchors = set().union(*(page.anchors for file, page in pages.items() if file.name.startswith("python-")))
    homes = {name: f"auditkit.{auditkit._HOME_OF[name]}.{name}" for name in auditkit.__all__}
    assert [name for name, home in homes.items() if not {f"auditkit.{name}", home} & anchors] == []
    assert "assert_contract" in text_of(site / "reference" / "python-testing.html")
    # A docstring, an attribute's text and a signature.
    shown = text_of(site / "reference" / "python-audits.html")
    assert "Audit model (a path, module:factory or a torch module)" in shown
    assert "One row a sample" in shown


def commands(group: Group, path: str) -> dict[str, object]:
    found = {}
    for name, command in group.commands.items():
        inner = commands(command, f"{path} {name}") if isinstance(command, Group) else {f"{path} {name}": command}
        found |= inner
    return found


def test_that_the_reference_of_the_command_line_holds_every_command_and_option(site):
    shown = text_of(site / "reference" / "commands.html")
    for path, command in commands(cli, "auditkit").items():
        section = shown.partition(f"{path}¶")[2]
        assert section, path
        for parameter in command.params:
            assert all(name in section for name in parameter.opts if name.startswith("--")), f"{path} {parameter.opts}"


def test_that_the_reference_holds_every_setting_and_says_what_it_does(site):
    content = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    rows = re.findall(
        r"<tr>\s*<td><code>(\w+)</code></td>\s*<td>.*?</td>\s*<td>.*?</td>\s*<td>(.*?)</td>", content, re.DOTALL
    )
    assert [name for name, _ in rows] == list(Settings.model_fields)
    assert [name for name, text in rows if not text.strip()] == []


def test_that_the_reference_of_checks_holds_every_option_metric_and_flag(site):
    shown = text_of(site / "reference" / "checks.html")
    for group, check_id in BUILT_IN:
        kind = load_check(find(check_id, entries(group)))
        heading = f"{check_id}¶" if group == CHECKS else f"{check_id} of detectors¶"
        section = shown.partition(heading)[2].partition("¶")[0]
        names = {metric.name for metric in kind.spec.metrics} | {rule.id for rule in kind.spec.flags}
        assert {name for name in names if name not in section} == set(), check_id
        assert as_shown(kind.spec.title) in section


def test_that_no_formula_is_left_as_it_was_typed(pages):
    shown = 0
    for file in pages:
        content = file.read_text(encoding="utf-8")
        assert "arithmatex" not in content, file
        assert not re.search(r"\$\$|>\\[a-z]+<", re.sub(r"<code.*?</code>", "", content, flags=re.DOTALL)), file
        shown += content.count("<math ")
    assert shown > 200


def test_that_no_paragraph_has_become_code_and_no_directive_is_left(pages):
    for file in pages:
        content = file.read_text(encoding="utf-8")
        assert "<pre><code>" not in content, file
        assert not re.search(r"<!-- (file|exit|uses|not run):", content), file


def test_that_nothing_is_said_to_comply():
    for name in ("standards.md", "evidence.md"):
        text = re.sub(r"\(https:[^)]+\)", "", (ROOT / "docs" / name).read_text(encoding="utf-8"))
        assert not re.search(r"\b(compl(y|ies|iant|iance)|certif(y|ies|ied))\b", text, re.IGNORECASE), name
    standards = (ROOT / "docs" / "standards.md").read_text(encoding="utf-8")
    assert re.search(r"\*As of \w+ 20\d\d\.", standards)
    assert "tables of contents and abstracts alone" in standards


@pytest.fixture
def generator(monkeypatch):
    monkeypatch.syspath_prepend(str(GENERATOR))


def test_that_a_formula_that_cannot_be_shown_stops_the_build(generator):
    from formulas import with_mathml

    assert "<mi>x</mi>" in with_mathml(r'<span class="arithmatex">\(x &lt; 1\)</span>', "page.md")
    assert r"step_size" in with_mathml(r'<span class="arithmatex">\(\text{step\_size}\)</span>', "page.md")
    with pytest.raises(ValueError, match=r"page\.md: \\nosuch in the formula"):
        with_mathml(r'<div class="arithmatex">\[\nosuch x\]</div>', "page.md")


def test_that_links_out_of_the_docs_lead_to_copies(generator, tmp_path):
    from repository import Mirror

    files = {
        "docs/checks/a.md": "[one](../../code/.hidden/b.py) [two](../c.md#here) [lost](../../code/no.py) [out](https://e.org/x)",
        "code/.hidden/b.py": "print()\n",
        "code/README.md": "[back](../docs/c.md) [code](.hidden/b.py)",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    mirror = Mirror(tmp_path, frozenset({"checks/a.md", "c.md"}))
    copies = mirror.pages({"checks/a.md": files["docs/checks/a.md"]}, ["code/README.md"])
    assert sorted(copies) == ["repository/code/README.md", "repository/code/hidden/b.py.md"]
    assert "````python\nprint()\n````" in copies["repository/code/hidden/b.py.md"]
    assert mirror.relinked(files["docs/checks/a.md"], "checks/a.md") == (
        "[one](../repository/code/hidden/b.py.md) [two](../c.md#here) [lost](../../code/no.py) [out](https://e.org/x)"
    )
    assert (
        mirror.relinked(files["code/README.md"], "repository/code/README.md")
        == "[back](../../c.md) [code](hidden/b.py.md)"
    )


def test_that_code_is_shown_with_the_name_of_its_file(generator):
    from repository import with_titles

    page = "<!-- exit: 1 -->\n<!-- file: a.py -->\n```python\n<!-- file: b.py -->\n```\n\n```sh\nls\n```\n"
    assert with_titles(page) == '```python title="a.py"\n<!-- file: b.py -->\n```\n\n```sh\nls\n```\n'
