"""The report in a browser: what a reader sees first, what a strict policy lets through, who can use it, what prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from browsing import EMBEDDED, LOAD_PICTURES, NO_BROWSER, SIZES, STRICT, browser, served, visit

from auditkit.report import write_html

pytestmark = [
    pytest.mark.skipif(bool(NO_BROWSER), reason=NO_BROWSER),
    # One browser and one server for all of them.
    pytest.mark.xdist_group("browser"),
]
# The inner width of the pages that the style sheet prints: A4, upright and across.
PAPER = {"upright": (794 - 2 * 53, ":not(.wide) > .scroll, :not(.wide) > details > .scroll"), "across": (1032, ".wide")}
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def folder(whole, arrays, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("folder")
    write_html(whole, arrays, path)
    return path


@pytest.fixture(scope="module")
def address(folder):
    with served(folder, STRICT) as root:
        yield f"{root}/index.html"


@pytest.fixture(scope="module")
def file_address(whole, arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("file")
    write_html(whole, arrays, path / "report.html")
    with served(path, EMBEDDED) as root:
        yield f"{root}/report.html"


@pytest.fixture(scope="module")
def detector_address(detected, detector_arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("detector")
    write_html(detected, detector_arrays, path)
    with served(path, STRICT) as root:
        yield f"{root}/index.html"


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
@pytest.mark.parametrize("size", SIZES)
def test_the_folder_is_whole_under_a_strict_policy(chromium, address, folder, size, scripts):
    with visit(chromium, address, size, scripts=scripts) as seen:
        loaded = seen.see(LOAD_PICTURES)
        assert len(loaded) > 46
        assert all(loaded)
        assert seen.see("document.documentElement.scrollWidth") <= SIZES[size][0]
        assert seen.see("getComputedStyle(document.querySelector('.verdict')).display") == "flex"
        assert seen.see("[...document.querySelectorAll('.scale use')].every(bar => bar.getBoundingClientRect().width)")
        root = address.removesuffix("index.html")
        inside = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        asked = {request.removeprefix(root) for request in seen.requests} - {"favicon.ico"}
        assert asked == inside
        assert seen.complaints == []


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])
def test_the_single_file_needs_nothing_but_itself(chromium, file_address, scripts):
    with visit(chromium, file_address, "phone", scripts=scripts) as seen:
        assert all(seen.see(LOAD_PICTURES))
        assert seen.see("document.documentElement.scrollWidth") <= SIZES["phone"][0]
        assert [request for request in seen.requests if not request.startswith("data:image/png")] == [file_address]
        assert seen.complaints == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
def test_the_first_screen_has_verdict_reason_and_worst_picture(chromium, address, size, scheme):
    """Who has a minute reads no further."""
    wanted = [".verdict strong", ".because", ".telling figcaption", ".pair img", ".pair li + li img"]
    if size == "laptop":
        wanted += [".words li:last-child", ".gates tbody tr:nth-child(2)"]
    with visit(chromium, address, size, scheme, scripts=False) as seen:
        for part in wanted:
            box = seen.page.locator(part).first.bounding_box()
            assert box is not None
            assert box["height"] > 0
            assert box["y"] + box["height"] <= SIZES[size][1], part


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_no_barrier(chromium, address, size, scheme):
    assert_no_barrier(chromium, address, size, scheme)


@pytest.mark.parametrize(("size", "scheme"), [("laptop", "light"), ("phone", "dark")])
def test_axe_finds_no_barrier_where_boxes_are_drawn(chromium, detector_address, size, scheme):
    assert_no_barrier(chromium, detector_address, size, scheme)


def assert_no_barrier(chromium, address, size, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="NO AXE: barriers are not looked for")
    with visit(chromium, address, size, scheme) as seen:
        seen.see(LOAD_PICTURES)
        # Rows beyond the third are built as those before, and take most of the time.
        seen.see("document.querySelectorAll('tbody tr:nth-child(n+4)').forEach(row => row.remove())")
        tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
        rules = {"runOnly": [*tags, "best-practice"] if (size, scheme) == ("laptop", "light") else tags}
        found = axe.Axe().run(seen.page, options=rules)
        assert found.response["passes"]
        assert [
            (violation["id"], violation["nodes"][0]["html"][:200], len(violation["nodes"]))
            for violation in found.response["violations"]
        ] == []


@pytest.mark.parametrize("size", SIZES)
def test_pictures_with_boxes_have_room_beside_each_other_and_never_more_than_the_page(chromium, detector_address, size):
    with visit(chromium, detector_address, size, scripts=False) as seen:
        assert all(seen.see(LOAD_PICTURES))
        assert seen.see("document.documentElement.scrollWidth") <= SIZES[size][0]
        assert seen.complaints == []
        pair = (
            "[...document.querySelectorAll('.panels .marked img')].slice(0, 2).map(one => one.getBoundingClientRect())"
        )
        first, second = seen.see(f"{pair}.map(box => [box.x, box.y, box.width, box.height])")
        assert 300 < first[2] <= 320
        assert first[2:] == second[2:] == [first[2], first[2]]
        assert (first[1] == second[1]) == (size == "laptop")
        box = seen.page.locator(".telling .legend li:last-child").bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= SIZES[size][1]
        if size == "laptop":
            row = seen.page.locator(".gates tbody tr:nth-child(2)").bounding_box()
            assert row is not None
            assert row["y"] + row["height"] <= SIZES[size][1]


def test_a_word_shows_its_meaning_to_the_keyboard_and_leads_to_its_entry(chromium, address):
    with visit(chromium, address, "phone", scripts=False) as seen:
        term = seen.page.locator("a.term").first
        for _ in range(20):
            seen.page.keyboard.press("Tab")
            if seen.see("document.activeElement.matches('a.term')"):
                break
        meaning = seen.see("getComputedStyle(document.activeElement, '::after').content")
        assert meaning.strip('"') == term.get_attribute("title")
        seen.page.keyboard.press("Enter")
        entry = seen.page.locator((term.get_attribute("href") or "").replace("#", "[id='") + "']")
        box = entry.bounding_box()
        assert box is not None
        assert 0 <= box["y"] < SIZES["phone"][1]
        assert term.get_attribute("title") in entry.inner_text()


def test_print_opens_all_that_is_folded_and_cuts_no_table(chromium, address):
    with visit(chromium, address, scripts=False) as seen:
        seen.page.emulate_media(media="print")
        hidden = "[...document.querySelectorAll('details > :nth-child(2)')].filter(part => !part.checkVisibility())"
        assert seen.see(f"{hidden}.length") == 0
        for width, part in PAPER.values():
            seen.page.set_viewport_size({"width": width, "height": 1000})
            assert (
                seen.see(
                    f"[...document.querySelectorAll('{part}')]"
                    ".filter(part => part.scrollWidth > part.clientWidth + 1).map(part => part.innerText.slice(0, 99))"
                )
                == []
            )
        printed = seen.page.pdf(prefer_css_page_size=True, print_background=True)
        boxes = {
            tuple(map(round, map(float, box))) for box in re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", printed)
        }
        assert boxes == {(595, 842), (842, 595)}
        seen.page.emulate_media(media="screen")
        assert seen.see(f"{hidden}.length") > 0
