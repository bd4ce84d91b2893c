"""Templates of the user: they come before the package's, keep its laws, and an error in one is one line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from auditkit.errors import UsageError
from auditkit.report import render_html, write_html

LAYOUTS = ("single", "folder")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "templates"
    path.mkdir()
    return path


def without_figures(result):
    checks = (check.model_copy(update={"curves": (), "profiles": ()}) for check in result.checks[:3])
    return result.model_copy(update={"checks": tuple(checks)})


@pytest.fixture(scope="module")
def plain(result):
    """The result without figures: they take most of the time, and no template changes them."""
    return without_figures(result)


def rendered(result, folder, layout="folder"):
    return render_html(result, {}, layout=layout, templates=folder)


def refused(result, folder) -> str:
    with pytest.raises(UsageError) as caught:
        rendered(result, folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_template_of_the_user_stands_in_for_the_one_of_its_name(plain, folder, layout):
    (folder / "_summary.html.j2").write_text("<h1>Ours: {{ result.model.name }}</h1>\n")
    page = rendered(plain, folder, layout).html
    assert "<h1>Ours: signs-resnet20.onnx</h1>" in page
    assert "Robustness audit of" not in page.partition("<h1>")[2]
    assert 'id="requirements"' in page


def test_an_own_section_is_added_and_the_original_can_be_included(plain, folder):
    (folder / "_custom.html.j2").write_text('<section><h2 id="ours">For {{ plural(3, "customer") }}</h2></section>')
    (folder / "_glossary.html.j2").write_text('<p>Before.</p>{% include "auditkit/_glossary.html.j2" %}')
    page = rendered(plain, folder).html
    assert '<h2 id="ours">For 3 customers</h2>' in page
    assert page.index("Before.") < page.index('id="glossary"')


def test_styles_are_replaced_by_report_css_and_added_by_custom_css(plain, folder):
    (folder / "custom.css").write_text(".ours { color: red; }")
    added = rendered(plain, folder)
    assert added.files["style.css"].startswith(rendered_alone(plain).files["style.css"])
    assert added.files["style.css"].endswith(b".ours { color: red; }")
    assert ".ours { color: red; }" in rendered(plain, folder, "single").html
    (folder / "report.css").write_text("body { margin: 0; }\n")
    assert rendered(plain, folder).files["style.css"] == b"body { margin: 0; }\n.ours { color: red; }"


def rendered_alone(result):
    return render_html(result, {}, layout="folder")


def test_an_empty_change_changes_nothing_else(plain, folder):
    (folder / "_custom.html.j2").write_text("")
    assert rendered(plain, folder).html.split() == rendered_alone(plain).html.split()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_texts_are_escaped_in_templates_of_the_user_as_well(hostile, folder, layout):
    (folder / "_custom.html.j2").write_text(
        "<p>{{ result.model.name }}</p>"
        "{% for check in page.checks %}<i title='{{ check.record.title }}'>x</i>{% endfor %}"
    )
    page = rendered(without_figures(hostile), folder, layout).html
    assert "<script" not in page
    assert "<img src=http" not in page
    assert "\x08" not in page
    assert page.count("signs-resnet20.onnx&lt;script&gt;alert(1)") >= 2


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("_summary.html.j2", "<h1>\n{% if %}</h1>", 2, "Expected an expression"),
        ("_summary.html.j2", "<h1>\n\n{{ result.modle }}</h1>", 3, "has no attribute 'modle'"),
        ("_summary.html.j2", "{{ nobody }}", 1, "'nobody' is undefined"),
        ("_summary.html.j2", "{{ 3|shout }}", 1, "No filter named 'shout'"),
        ("_summary.html.j2", "\n{{ 1 / 0 }}", 2, "division by zero"),
        ("_summary.html.j2", '\n{% include "_gallary.html.j2" %}', 2, "did you mean _gallery.html.j2?"),
        ("_check.html.j2", "\n\n\n{{ check.record.nothing }}", 4, "has no attribute 'nothing'"),
        ("_summary.html.j2", "{{ ''.__class__.__mro__ }}", 1, "is unsafe"),
        ("custom.css", ".a {}\n</style>", 2, "a style sheet cannot hold '</'"),
    ],
)
def test_an_error_names_its_file_and_line(plain, folder, name, text, line, words):
    (folder / name).write_text(text)
    message = refused(plain, folder)
    assert message.startswith(f"{folder / name}:{line}: ")
    assert words in message


def test_a_folder_that_is_none_or_changes_nothing_is_refused(plain, folder, tmp_path):
    assert refused(plain, tmp_path / "gone").endswith("gone is not there")
    (tmp_path / "file").write_text("")
    assert refused(plain, tmp_path / "file").endswith("file is a file")
    assert "holds no template (*.html.j2), no report.css and no custom.css" in refused(plain, folder)


def test_a_template_that_nothing_asks_for_is_a_mistyped_name(plain, folder):
    (folder / "_sumary.html.j2").write_text("x")
    assert refused(plain, folder) == (
        f"{folder / '_sumary.html.j2'} is asked for by no template; did you mean _summary.html.j2?"
    )
    (folder / "_custom.html.j2").write_text('{% include "_sumary.html.j2" %}')
    assert re.search(r"\bx\b", rendered(plain, folder).html)


@pytest.mark.parametrize("name", ["_summary.html.j2", "custom.css"])
def test_a_file_that_is_no_text_is_refused(plain, folder, name):
    (folder / name).write_bytes(b"\xff\xfe\x00")
    assert str(folder / name) in refused(plain, folder)


def test_a_template_changed_between_two_reports_is_read_again(plain, folder):
    for text in ("first words", "other words"):
        (folder / "_custom.html.j2").write_text(text)
        assert text in rendered(plain, folder).html


def test_nothing_is_written_where_a_template_is_broken(plain, folder, tmp_path):
    (folder / "_summary.html.j2").write_text("{% endif %}")
    for out in ("report.html", "report"):
        with pytest.raises(UsageError):
            write_html(plain, {}, tmp_path / out, folder)
        assert not (tmp_path / out).exists()


def test_an_error_of_the_packages_own_is_not_blamed_on_the_user(plain, folder):
    (folder / "_custom.html.j2").write_text("fine")
    broken = plain.model_copy(update={"samples": None})
    with pytest.raises(AttributeError):
        rendered(broken, folder)
