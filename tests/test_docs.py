"""The docs are what the tests run: commands, code, files, tables of options, and links."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from PIL import Image

from auditkit import ExitCode
from auditkit.budgets import parse_budget
from auditkit.cli import cli
from auditkit.config import Settings
from auditkit.demo import IMAGES
from auditkit.demo.network import sign_net
from auditkit.plan import PRESETS, default_options
from auditkit.registry import CHECKS, DETECTOR_CHECKS, entries, find, load_check

ROOT = Path(__file__).parents[1]
# The tests also run beside an installed wheel, where there are no pages.
if not (ROOT / "docs").is_dir():
    pytest.skip("the docs are not here", allow_module_level=True)

BIN = Path(sys.executable).parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]
POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
# Where the pages of each kind of checks lie.
FOLDERS = {CHECKS: "checks", DETECTOR_CHECKS: "detector_checks"}
DOCUMENTED = [(group, check_id) for group in FOLDERS for check_id in sorted(POINTS[group])]
LANGUAGES = {"console", "sh", "python", "toml", "text"}
TIME_LIMIT = 300
DEMO = "auditkit demo"
# Pages are followed side by side: the longest first, those that wait for the demo's audit last.
READERS = 2
ORDER = ("tutorial.md", "write_a_check.md", "CONTRIBUTING.md", "index.md", "README.md", "report.md", "gates.md")
# Images of each class for the pages that bring no model of their own.
IMAGES_A_CLASS = 4

FENCE = re.compile(r"```(\w*)")
DIRECTIVE = re.compile(r"<!-- (file|exit|uses|not run): (.+) -->")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"#+ (.+)")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the directives in comments before it."""

    page: Path
    line: int
    language: str
    text: str
    directives: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_run(self) -> bool:
        return "not run" not in self.directives and self.language in ("console", "sh", "python", "toml")


def blocks(page: Path) -> Iterator[Block]:
    directives: dict[str, str] = {}
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    for number, line in lines:
        if found := DIRECTIVE.fullmatch(line):
            directives[found[1]] = found[2]
        elif fence := FENCE.fullmatch(line):
            content: list[str] = []
            for _, inner in lines:
                if inner == "```":
                    break
                content.append(inner)
            yield Block(page, number, fence[1], "\n".join(content) + "\n", directives)
            directives = {}
        elif line:
            assert not directives, f"{page.name}:{number}: {directives} stands before no block"


BLOCKS = {page: list(blocks(page)) for page in PAGES}


def run_order(page: Path) -> tuple[int, str]:
    return ORDER.index(page.name) if page.name in ORDER else -1, page.name


RUN = sorted((page for page in PAGES if any(block.is_run for block in BLOCKS[page])), key=run_order)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def environment(folder: Path) -> dict[str, str]:
    """Return an environment in which `auditkit`, `python` and `pytest` are those under test."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AUDITKIT", "PYTEST"))}
    paths = [str(folder / ".site"), *(str(made.parent) for made in folder.glob("*/pyproject.toml"))]
    return inherited | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
        "LC_ALL": "C.UTF-8",
    }


@dataclass
class SharedDemo:
    """One run of `auditkit demo` for all pages, begun in the background."""

    folder: Path
    process: subprocess.Popen[str]
    output: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self) -> tuple[int, str]:
        with self.lock:
            if self.output is None:
                self.output, _ = self.process.communicate(timeout=TIME_LIMIT)
        return self.process.returncode, self.output

    def copy_to(self, folder: Path) -> None:
        code, output = self.wait()
        assert code == 0, output
        shutil.copytree(self.folder / "auditkit-demo", folder / "auditkit-demo", dirs_exist_ok=True)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedDemo]:
    folder = tmp_path_factory.mktemp("demo")
    process = subprocess.Popen(
        [BIN / "auditkit", "demo"],
        cwd=folder,
        env=environment(folder),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    with process:
        yield SharedDemo(folder, process)
        process.kill()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model.onnx` and `images`, as a reader would have them."""
    folder = tmp_path_factory.mktemp("model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            sign_net(),
            (torch.zeros(1, 3, 32, 32),),
            str(folder / "model.onnx"),
            input_names=["image"],
            dynamic_axes={"image": {0: "n"}},
            dynamo=False,
        )
    with np.load(IMAGES) as signs:
        for label, name in enumerate(signs["names"]):
            target = folder / "images" / f"{label} {name}"
            target.mkdir(parents=True)
            for number, pixels in enumerate(signs["x"][signs["y"] == label][:IMAGES_A_CLASS]):
                Image.fromarray(pixels).save(target / f"{number}.png")
    return folder


@dataclass
class Reader:
    """Somebody who follows a page to the letter, in an empty folder."""

    folder: Path
    demo: SharedDemo
    model: Path
    code: int = 0

    def follow(self, block: Block) -> None:
        if "uses" in block.directives:
            self._provide(block.directives["uses"])
        if "file" in block.directives:
            self._write(block)
        elif block.language in ("console", "sh"):
            self._type(block)
        elif block.language == "python":
            strict = ["-W", "error", "-W", "ignore:`torch.jit:DeprecationWarning"]
            code, output = self._run([str(BIN / "python"), *strict, "-c", block.text])
            assert code == 0, f"{block.place}: exit code {code}\n{output}"
        else:
            raise AssertionError(f"{block.place}: say which file this is: <!-- file: NAME -->")

    def _provide(self, what: str) -> None:
        if what == "demo":
            self.demo.copy_to(self.folder)
        else:
            assert what == "model"
            shutil.copytree(self.model, self.folder, dirs_exist_ok=True)

    def _write(self, block: Block) -> None:
        file = self.folder / block.directives["file"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text, encoding="utf-8")
        if file.name == "pyproject.toml":
            announce(tomllib.loads(block.text)["project"], self.folder / ".site")

    def _type(self, block: Block) -> None:
        wanted_code = int(block.directives.get("exit", "0"))
        for command, shown in commands(block):
            if command == DEMO:
                self.code, output = self.demo.wait()
                self.demo.copy_to(self.folder)
            else:
                self.code, output = self._run(["bash", "-c", f"(exit {self.code}); {command}"])
            assert "Traceback" not in output, f"{block.place}: {command}\n{output}"
            missing = first_missing(shown, output)
            assert missing is None, f"{block.place}: {command}\ndid not print\n{missing}\nbut\n{output}"
        assert self.code == wanted_code, f"{block.place}: exit code {self.code}, wanted {wanted_code}\n{output}"

    def _run(self, command: list[str]) -> tuple[int, str]:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment(self.folder),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            timeout=TIME_LIMIT,
            check=False,
        )
        return done.returncode, done.stdout


def announce(project: Mapping[str, Any], site: Path) -> None:
    """Announce a package to importlib.metadata as an installer would, without touching this environment."""
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def commands(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Return each command with the output that the page shows for it."""
    lines = block.text.splitlines()
    if block.language == "sh":
        yield from ((line, []) for line in lines if line.strip())
        return
    assert lines[0].startswith("$ "), f"{block.place}: a console block begins with a command"
    starts = [at for at, line in enumerate(lines) if line.startswith("$ ")]
    for start, stop in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield lines[start].removeprefix("$ "), lines[start + 1 : stop]


def first_missing(shown: list[str], output: str) -> str | None:
    """Return the first shown line that was not printed after the one before it; numbers may differ."""
    printed = iter(output.splitlines())
    for line in shown:
        if line.strip() != "...":
            pattern = re.compile(".*".join(map(re.escape, masked(line).split("..."))))
            if not any(pattern.fullmatch(masked(candidate)) for candidate in printed):
                return line
    return None


def masked(line: str) -> str:
    return NUMBER.sub("#", " ".join(line.split()))


def follow(page: Path, reader: Reader) -> None:
    for block in BLOCKS[page]:
        if block.is_run:
            reader.follow(block)


@pytest.fixture(scope="module")
def followed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, demo: SharedDemo, model: Path
) -> Iterator[dict[Path, Future[None]]]:
    """Follow the pages that were selected, some at a time."""
    parameters = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted = {chosen["followed_page"] for chosen in parameters if "followed_page" in chosen}
    with ThreadPoolExecutor(READERS) as pool:
        yield {
            page: pool.submit(follow, page, Reader(tmp_path_factory.mktemp(page.stem), demo, model))
            for page in RUN
            if page in wanted
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("followed_page", RUN, ids=page_id)
def test_that_a_reader_who_follows_a_page_gets_what_it_shows(
    followed_page: Path, followed: dict[Path, Future[None]]
) -> None:
    followed[followed_page].result()


def test_that_a_shown_line_that_is_not_printed_is_noticed() -> None:
    assert first_missing(["PASS: both", "...", "report: a"], "PASS: both\n1 of 2\nreport: a\n") is None
    assert first_missing(["accuracy 0.95 (n=60), ..."], "accuracy 0.9  (n=7), distance 3\n") is None
    assert first_missing(["b", "a"], "a\nb\n") == "a"
    assert first_missing(["FAIL"], "PASS\n") == "FAIL"


def test_that_what_is_not_run_is_rare_and_says_why() -> None:
    everything = [block for page in PAGES for block in BLOCKS[page]]
    assert {block.language for block in everything} <= LANGUAGES
    left_out = [block for block in everything if "not run" in block.directives]
    assert all(len(block.directives["not run"].split()) > 4 for block in left_out)
    assert all(re.search(r"\b(make|pip|pytest)\b", block.text) for block in left_out)
    assert len(left_out) < 8


@pytest.mark.parametrize(("group", "check_id"), DOCUMENTED)
def test_that_the_page_of_a_check_names_all_that_it_has(group: str, check_id: str) -> None:
    kind = load_check(find(check_id, entries(group)))
    page = (ROOT / "docs" / FOLDERS[group] / f"{check_id}.md").read_text(encoding="utf-8")
    spec = kind.spec
    heading = check_id if group == CHECKS else f"{check_id} of detectors"
    assert page.startswith(f"# {heading}\n\n*{spec.title}.*\n")
    wanted = [f"`{metric.name}`" for metric in spec.metrics]
    wanted += [f"`{rule.id}`" for rule in spec.flags]
    wanted += [reference.rpartition(" ")[2] for reference in spec.references]
    assert [name for name in wanted if name not in page] == []
    for overview in ("README.md", "docs/index.md"):
        assert f"{FOLDERS[group]}/{check_id}.md)" in (ROOT / overview).read_text(encoding="utf-8")


@pytest.mark.parametrize(("group", "check_id"), DOCUMENTED)
def test_that_the_table_of_options_holds_the_values_of_the_code(group: str, check_id: str) -> None:
    kind = load_check(find(check_id, entries(group)))
    rows = table_below((ROOT / "docs" / FOLDERS[group] / f"{check_id}.md"), "Options")
    defaults = default_options(kind)
    documented = {row["option"].strip("`"): row for row in rows}
    assert documented.keys() == defaults.keys()
    for option, row in documented.items():
        assert values(row["default"]) == values(defaults[option]), option
        for preset in PRESETS:
            if preset not in kind.spec.presets:
                assert row.get(preset, "-") == "-", f"{preset} leaves {check_id} out"
                continue
            chosen = kind.spec.presets[preset].get(option, defaults[option])
            assert preset not in row or values(row[preset]) == values(chosen), f"{option} in {preset}"
            assert preset in row or option not in kind.spec.presets[preset], f"{option} in {preset}"


def values(cell: object) -> list[float | str]:
    """Read `8/255`, `2, 8 (all /255)`, `linf` or the values themselves."""
    text = ", ".join(map(str, cell)) if isinstance(cell, list) else str(cell).strip("`")
    # A table may leave out the 255 of its budgets; then neither side has it.
    text = text.replace("(all /255)", "").replace("/255", "")
    return [parse_budget(part) if NUMBER.match(part) else part for part in text.replace(",", " ").split()]


def table_below(page: Path, heading: str) -> list[dict[str, str]]:
    lines = page.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def test_that_no_page_describes_a_check_that_is_gone() -> None:
    for group, folder in FOLDERS.items():
        assert sorted(page.stem for page in (ROOT / "docs" / folder).glob("*.md")) == sorted(POINTS[group])


def cli_parts(command: click.Command, name: str) -> Iterator[tuple[str, str | None]]:
    """Return (command, None) for each command, and (command, option) for each option."""
    if isinstance(command, click.Group):
        for child, part in command.commands.items():
            yield from cli_parts(part, f"{name} {child}")
        return
    yield name, None
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            yield name, max(parameter.opts, key=len)


def test_that_every_command_and_option_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    parts = list(cli_parts(cli, "auditkit"))
    assert len(parts) > 20
    assert [name for name, option in parts if option is None and f"`{name}" not in index] == []
    assert [part for part in parts if part[1] is not None and f"`{part[1]}" not in index] == []


def test_that_every_setting_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    spellings = {"options": '[options."noise.pgd"]', "gates": "`gates`"}
    for name in Settings.model_fields:
        dashed = f"`--{name.replace('_', '-')}`"
        assert spellings.get(name, dashed) in index or f"`{name}`" in index, name


def test_that_the_tables_of_exit_codes_are_complete() -> None:
    for page in ("README.md", "docs/gates.md"):
        rows = re.findall(r"^\| (\d+) \|", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert list(map(int, rows)) == [code.value for code in ExitCode]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_that_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.is_file(), f"{page.name}: {target}"
        assert file.resolve().is_relative_to(ROOT), f"{page.name}: {target}"
        headings = HEADING.findall(file.read_text(encoding="utf-8")) if anchor else []
        assert not anchor or anchor in map(slug, headings), f"{page.name}: {target}"


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_that_pages_name_no_path_of_the_machine_they_were_written_on(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w.])/(work|tmp|home|root|usr)/", text)
    assert "\t" not in text
