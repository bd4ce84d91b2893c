"""Tables that checks make: what their cells say, how they are aligned, and how much of a long one is shown."""

from __future__ import annotations

import re

import numpy as np
import pytest
from understanding import by_class, check

from auditkit.report import render_html
from auditkit.report.tables import Cell, table_view
from auditkit.report.text import number_text
from auditkit.result import TableRecord
from auditkit.stats import mean, proportion

DASH = "\N{EN DASH}"


def made(*rows):
    return TableRecord(title="A table", columns=("name", "value"), rows=rows)


def page_of(result, *tables, layout="folder"):
    only = check("explain.made", "Holds", "It matters.", tables=tables)
    return render_html(result.model_copy(update={"checks": (only,), "gates": ()}), {}, layout=layout).html


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.123456, "0.1235"),
        (0.00012345, "0.0001234"),
        (1.0, "1"),
        (-0.0, "0"),
        (9999.6, "10000"),
        (-12345.678, "-12350"),
        (1234567, "1234567"),
        (1.2345678e9, "1.235e+09"),
        (1e-9, "1e-09"),
    ],
)
def test_numbers_have_four_digits_and_counts_all_of_theirs(number, text):
    assert number_text(number) == text


def test_a_cell_is_text_number_estimate_or_empty():
    half = proportion(300, 600)
    rows = table_view(made(("a", 0.123456), ("b", half), ("c", None), ("d", "e"))).rows
    assert [row[1] for row in rows] == [
        Cell("number", "0.1235"),
        Cell("estimate", "50.0 %", "45.9 to 54.1 %"),
        Cell("empty", ""),
        Cell("text", "e"),
    ]


def test_a_column_of_numbers_is_aligned_as_one_and_a_mixed_one_by_cell(result):
    page = page_of(result, made(("a", 3), ("b", None)), made(("a", "text"), ("b", 4)), made((7, "text")))
    assert page.count('<th scope="col" class="number">Value') == 0
    assert page.count('<th scope="col" class="number">value</th>') == 1
    assert page.count('<th scope="col">value</th>') == 2
    assert '<td class="number">3</td>' in page
    assert f'<td class="number">{DASH}</td>' in page
    assert "<td>text</td>" in page
    assert '<td class="number">4</td>' in page
    assert '<th scope="row" class="number">7</th>' in page


def test_an_empty_first_cell_heads_no_row(result):
    page = page_of(result, made((None, 3)))
    assert re.search(rf"<td>{DASH}</td>\s*<td class=\"number\">3</td>", page)


def test_an_estimate_stands_with_its_interval(result):
    page = page_of(result, by_class())
    assert "<small>0.0 to 11.6 %</small>" in page
    assert "Class by class, the worst first" in page


def test_a_long_table_shows_a_dozen_rows_and_the_others_on_demand(result):
    def rows(page):
        parts = re.findall(r'<table class="findings">.*?</table>', page, re.S)
        return [part.count("<tr>") - 1 for part in parts]

    twelve = [(f"row {number}", number) for number in range(12)]
    assert rows(page_of(result, made(*twelve))) == [12]
    page = page_of(result, made(*twelve, ("last", 5)))
    assert rows(page) == [12, 1]
    assert "<summary>1 more row</summary>" in page
    assert "<caption>A table, continued</caption>" in page
    assert page.index("row 11") < page.index("<summary>1 more row") < page.index("last")


def test_a_single_file_leaves_rows_out_of_a_table_of_a_thousand_and_says_so(result):
    table = made(*((f"row {number}", mean(np.array([number, number + 1.0]))) for number in range(1000)))
    single, folder = (page_of(result, table, layout=layout) for layout in ("single", "folder"))
    assert "700 rows left out to keep this file small" in single
    assert ("row 299<" in single, "row 300<" in single, "row 999<" in folder) == (True, False, True)
    assert "rows left out" not in folder


def test_markup_in_cells_and_names_of_columns_shows_as_text(result):
    bad = "<script>alert(1)</script>"
    page = page_of(result, TableRecord(title=bad, columns=(bad, "b"), rows=((bad, bad), ("x", None))))
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 4


def test_a_metric_that_stands_in_a_table_is_not_listed_as_well(result):
    found = {"first_hit": proportion(3, 4), "alone": proportion(1, 2)}
    table = TableRecord(title="Alarms", columns=("", "hits (hit)"), rows=(("first: the first", found["first_hit"]),))
    only = check("detect.made", "Holds", "It matters.", tables=(table,))
    for tabulated, listed in (((), 2), (("first_hit",), 1)):
        record = only.model_copy(update={"metrics": found, "tabulated": tabulated})
        page = render_html(result.model_copy(update={"checks": (record,), "gates": ()}), {}, layout="folder").html
        assert len(re.findall(r">first_hit<", page)) == listed - 1
        assert len(re.findall(r">alone<", page)) == 1
