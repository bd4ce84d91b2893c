from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from large_audit import large_audit
from outlines import Outline
from understanding import by_class

from auditkit.report import Page, render_html, write_html
from auditkit.report.page import anchor, build_page
from auditkit.report.text import ordered, verdict_sentence
from auditkit.result import Result, Verdict

LAYOUTS = ("single", "folder")


def outline(page: Page) -> Outline:
    return Outline(page.html)


def addresses(page: Page) -> list[str]:
    return [
        attributes[name]
        for _, attributes in outline(page).tags
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href")
        if name in attributes
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_input_gives_equal_bytes(result, arrays, pages, layout):
    again = Result.model_validate_json(result.to_json())
    assert pages[layout] == render_html(again, dict(arrays), layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_finding_appears(result, pages, layout):
    page = outline(pages[layout])
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    for check in result.checks:
        assert check.key in page.text
        assert check.title in page.text
        assert anchor(check.key) in ids
        assert (check.reason or "") in page.text
        assert all(name in page.text for name in check.metrics)
    for gate in result.gates:
        assert gate.metric in page.text
        assert gate.text in page.text
    for flag in result.flags:
        assert flag.text in page.text
        assert flag.remedy in page.text
    assert all(note.text in page.text for note in result.notes)
    word, _, sentence = verdict_sentence(result).partition(": ")
    assert word in page.text
    assert sentence[1:] in page.text
    for text in (result.model.search_copy, result.model.digest, "truncated file", "at step 3", "43"):
        assert text in page.text


def test_failures_come_first(result, pages):
    html = pages["single"].html
    places = [html.index(f"<code>{gate.metric}</code>") for gate in ordered(result.gates)]
    assert places == sorted(places)
    assert [gate.verdict for gate in ordered(result.gates)] == [
        Verdict.FAIL,
        Verdict.MISSING,
        Verdict.INCONCLUSIVE,
        Verdict.PASS,
        Verdict.PASS,
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_markup_in_any_text_shows_as_text(hostile, arrays, layout):
    page = render_html(hostile, arrays, layout=layout)
    seen = outline(page)
    assert not seen.named("script")
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in seen.text
    assert "\x08" not in page.html
    assert "\u202e" not in page.html
    assert not [address for address in addresses(page) if "evil" in address and not address.startswith("#")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_text_of_a_plugin_a_model_and_a_setting_shows_as_text(hostile_whole, arrays, layout):
    """Also those in the first screen, the section of hard images, tables, profiles, legends and SVG."""
    page = render_html(hostile_whole, arrays, layout=layout)
    seen = outline(page)
    assert not seen.named("script")
    assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
    assert not [attributes for attributes in seen.named("img") if "evil" in attributes["src"]]
    assert len(seen.named("table")) == len(re.findall("</table>", page.html))
    payload = "<script>alert(1)</script>"
    first = hostile_whole.checks[0]
    for text in (
        hostile_whole.model.name,
        hostile_whole.samples.source,
        first.title,
        first.why,
        first.threat_model or "",
        first.exhibits[0].caption,
        first.exhibits[0].sample,
        first.exhibits[0].panels[2].title,
        first.references[0],
        next(iter(first.options)),
        next(iter(first.queries)),
        next(iter(hostile_whole.model.preprocessing)),
        hostile_whole.flags[0].text,
        hostile_whole.notes[0].remedy,
        hostile_whole.gates[0].text,
        hostile_whole.checks[-2].tables[0].columns[0],
        hostile_whole.checks[-3].exhibits[0].caption,
        hostile_whole.checks[5].profiles[0].title,
        next(iter(hostile_whole.checks[5].profiles[0].lines)),
        hostile_whole.checks[6].curves[0].line,
        (hostile_whole.samples.class_names or ("",))[0],
    ):
        assert payload in text
        assert text.partition("\x08")[0] in seen.text, text
    drawn = "".join(re.findall(r"<svg .*?</svg>", page.html, re.S))
    assert "&lt;script&gt;alert(1)" in drawn
    assert "<script" not in drawn


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_loaded_from_elsewhere(pages, layout):
    page = pages[layout]
    inside = set(page.files) if layout == "folder" else set()
    for address in addresses(page):
        assert address.startswith(("#", "data:image/png;base64,")) or address in inside
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", page.html)
    assert "@import" not in page.html
    assert "xmlns" not in page.html


def test_the_folder_needs_no_inline_style_script_or_data(pages):
    page = pages["folder"]
    seen = outline(page)
    assert not seen.named("style")
    assert not seen.named("script")
    assert not [attributes for _, attributes in seen.tags if "style" in attributes]
    assert "data:" not in page.html
    assert {attributes["src"] for attributes in seen.named("img")} | {"style.css"} == set(page.files)
    assert all(content.startswith(b"\x89PNG") for name, content in page.files.items() if name != "style.css")


@pytest.mark.parametrize("name", ["result", "ungated", "nothing_done", "hostile"])
def test_the_page_is_well_built(request, arrays, name):
    page = outline(render_html(request.getfixturevalue(name), arrays, layout="single"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))
    assert len(page.named("caption")) == len(page.named("table"))
    assert all(attributes.get("scope") in ("row", "col") for attributes in page.named("th"))
    assert all(attributes["alt"] for attributes in page.named("img"))
    assert page.named("html")[0]["lang"] == "en"
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "#main" in {attributes.get("href") for attributes in page.named("a")}
    assert not re.search(r"\b(nan|(?<!L-)inf|None|undefined)\b", page.text)
    assert {unquote(a["href"].removeprefix("#")) for a in page.named("a")} <= set(ids)


def test_without_requirements_nothing_passes(ungated, arrays):
    text = outline(render_html(ungated, arrays, layout="single")).text
    assert "INCOMPLETE" in text
    assert "No requirements were set" in text


def test_missing_arrays_show_as_missing(result):
    page = outline(render_html(result, {}, layout="folder"))
    assert not page.named("img")
    assert page.text.count("Picture not stored") == 46


def test_the_disclaimer_stands_on_top(result, arrays):
    noted = result.model_copy(update={"disclaimer": "Weights of a demonstration."})
    text = outline(render_html(noted, arrays, layout="single")).text
    assert text.index("Weights of a demonstration.") < text.index("Robustness audit of", 100)


def test_ten_checks_of_noisy_pictures_stay_below_two_megabytes(result, arrays):
    rng = np.random.default_rng(0)
    arrays = {
        key: rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) if array.dtype == np.uint8 else array
        for key, array in arrays.items()
    }
    pgd = result.checks[0]
    rows = tuple(pgd.exhibits[number % 5] for number in range(8))
    checks = tuple(pgd.model_copy(update={"key": f"noise.pgd@{n}", "exhibits": rows}) for n in range(10))
    page = render_html(result.model_copy(update={"checks": checks}), arrays, layout="single")
    assert len(page.html.encode()) < 2_000_000
    text = outline(page).text
    assert text.count("left out to keep this file small") == 10
    assert text.count("became speed limit 50") >= 10


def test_tables_of_a_thousand_classes_leave_less_room_for_pictures(result, arrays):
    """The size of the file is what a mail server sees, whatever fills it."""
    reasons, long = result.check("explain.reasons"), by_class()
    long = long.model_copy(update={"rows": tuple((f"class {n}", *long.rows[0][1:]) for n in range(1000))})
    rng = np.random.default_rng(0)
    noise = {
        key: rng.uniform(0, 1, (224, 224, array.shape[2])).astype(np.float32) if array.dtype != np.uint8 else array
        for key, array in arrays.items()
        if array.ndim == 3
    }
    rows = tuple(reasons.exhibits[number % 2] for number in range(8))
    changed = reasons.model_copy(update={"exhibits": rows, "tables": (long,)})
    checks = tuple(changed.model_copy(update={"key": f"explain.reasons@{n}"}) for n in range(9))
    page = render_html(result.model_copy(update={"checks": checks}), noise, layout="single")
    assert 1_800_000 < len(page.html.encode()) < 2_000_000
    text = outline(page).text
    assert text.count("934 rows left out") == 9
    assert text.count("stop is taken for yield") >= 9
    assert "left out to keep this file small" in text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_row_with_maps_has_a_colour_bar_with_both_ends(pages, layout):
    page = outline(pages[layout])
    shown = re.findall(r"Scale: 0\s+([\d.]+)( and more)?", page.text)
    assert len(shown) == 10
    assert shown[-2:] == [("0.09", ""), ("0.027", " and more")]
    uses = [attributes["href"] for attributes in page.named("use") if attributes["href"].startswith("#bar-")]
    assert uses == ["#bar-heat"] * 8 + ["#bar-overlay"] * 2
    assert {attributes["id"] for attributes in page.named("symbol")} == {"bar-heat", "bar-overlay"}


def test_a_page_without_maps_or_with_empty_ones_has_no_colour_bar(nothing_done, result, arrays):
    zeros = {key: np.zeros_like(array) for key, array in arrays.items()}
    for page in (
        outline(render_html(nothing_done, {}, layout="single")),
        outline(render_html(result, zeros, layout="single")),
        outline(render_html(result, {}, layout="single")),
    ):
        assert not page.named("symbol")
        assert "Scale:" not in page.text


def test_writing_leaves_whole_files_and_removes_only_its_own(result, arrays, pages, tmp_path: Path):
    single = write_html(result, arrays, tmp_path / "deep" / "report.html")
    assert single.read_text(encoding="utf-8") == pages["single"].html
    folder = tmp_path / "report"
    (folder / "images").mkdir(parents=True)
    for name in ("notes.txt", "images/mine.png", "images/0123456789abcdef.png"):
        (folder / name).write_bytes(b"x")
    index = write_html(result, arrays, folder)
    page = pages["folder"]
    written = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert written == {"index.html", "notes.txt", "images/mine.png", *page.files}
    assert index.read_text(encoding="utf-8") == page.html


def test_a_large_audit_makes_a_page_of_less_than_five_megabytes():
    """Ten thousand images, 35 checks, tables of a thousand classes; `benchmarks/report.py` takes the time of it."""
    made, pictures = large_audit()
    page = render_html(made, pictures, layout="single")
    assert len(page.html.encode()) < 2_000_000
    assert len(outline(page).named("img")) > 2  # more than the pair of the first screen
    whole_tables = build_page(made, "folder")
    assert max(len(table.rows) + len(table.more) for check in whole_tables.checks for table in check.tables) == 1000


def test_importing_the_report_loads_nothing_heavy():
    code = "import sys, auditkit.report; print(*{'torch', 'onnx', 'onnxruntime', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
