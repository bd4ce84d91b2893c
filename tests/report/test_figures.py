from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib
import pytest

from auditkit.report import render_html
from auditkit.report.bars import gate_bar
from auditkit.report.curves import charts_of, overview_charts
from auditkit.report.figures import draw_chart
from auditkit.report.svg import inline_svg


def parse(text: str | bytes) -> ET.Element:
    return ET.fromstring(text)  # noqa: S314 (our own output)


@pytest.fixture(scope="module")
def svg(result):
    return draw_chart(overview_charts(result)[0], "overview", bands=False)


def test_a_chart_needs_no_style_and_no_namespace(svg):
    root = parse(svg)
    assert root.tag == "svg"
    assert root.get("role") == "img"
    for element in root.iter():
        assert element.tag not in {"style", "metadata"}
        assert "style" not in element.attrib
    assert "http" not in svg
    assert "#010203" not in svg
    assert "currentColor" in svg


def test_references_inside_a_chart_are_whole_and_prefixed(svg):
    root = parse(svg)
    ids = {element.get("id") for element in root.iter() if element.get("id")}
    used = {element.get("href", "#")[1:] for element in root.iter("use")}
    clips = {e.get("clip-path", "")[5:-1] for e in root.iter() if e.get("clip-path")}
    assert used
    assert used | clips | {"overview-title", "overview-desc"} == ids
    assert all(name.startswith("overview-") for name in ids)


def test_a_chart_is_told_in_words(svg, result):
    root = parse(svg)
    words = root.findtext("desc") or ""
    for key in ("noise.pgd", "noise.square@queries500"):
        assert key in words
    assert "61.8 % (57.8 to 65.7 %)" in words
    shown = {"".join(element.itertext()) for element in root.iter("text")}
    assert {"8/255", "L-inf budget", "Robust accuracy", "chance, 2.33 %"} <= shown


def test_budgets_of_a_kind_share_a_chart_and_curves_begin_unattacked(result):
    linf, pixels = overview_charts(result)
    assert [series.key for series in linf.series] == ["noise.pgd", "noise.square@queries500"]
    assert [series.key for series in pixels.series] == ["pixel.one"]
    assert linf.series[0].points[0].estimate == result.checks[0].metrics["clean_accuracy"]
    assert len({series.style for series in (*linf.series, *pixels.series)}) == 3


def test_dollars_and_foreign_letters_are_drawn_as_they_are(result):
    check = result.checks[0]
    curve = check.curves[0].model_copy(update={"x_label": "$\\frac{a}{b}$ 予算 \x07"})
    (chart,) = charts_of(check.model_copy(update={"curves": (curve,)}), result)
    svg = draw_chart(chart, "a", bands=True)
    assert "$\\frac{a}{b}$ 予算 \ufffd" in svg


def test_the_users_matplotlib_settings_neither_matter_nor_change(result, svg):
    with matplotlib.rc_context({"axes.facecolor": "red", "font.size": 30, "lines.linewidth": 9}):
        before = dict(matplotlib.rcParams)
        assert draw_chart(overview_charts(result)[0], "overview", bands=False) == svg
        assert dict(matplotlib.rcParams) == before


def test_a_font_shorthand_keeps_its_size():
    style = "font: italic 12px 'DejaVu Sans'; text-anchor: end"
    svg = f'<svg viewBox="0 0 1 1"><text style="{style}">x</text></svg>'
    text = parse(inline_svg(svg, prefix="a", title="t", description="d")).find("text")
    assert text is not None
    assert text.attrib == {"font-size": "12", "text-anchor": "end"}


def test_a_bar_stays_inside_its_frame_whatever_the_threshold(result):
    gate = result.gates[0]
    for threshold in (-3.0, 0.0, 0.5, 7.0):
        bar = parse(gate_bar(gate.model_copy(update={"threshold": threshold})))
        for rect in bar.iter("rect"):
            assert 0 <= float(rect.get("x", "")) <= float(rect.get("x", "")) + float(rect.get("width", "")) <= 200


def test_curves_that_name_the_same_figure_are_lines_of_it(result, arrays):
    """Beside each other noise and stickers say at a glance what four figures in a row do not."""
    check = next(check for check in result.checks if check.curves)
    curve = check.curves[0]
    lines = [curve.model_copy(update={"figure": "What survives", "line": name}) for name in ("noise", "stickers")]
    curves = (lines[0], curve.model_copy(update={"title": "Alone"}), lines[1])
    changed = check.model_copy(update={"curves": curves})
    shared, alone = charts_of(changed, result)
    assert (shared.title, [line.key for line in shared.series]) == ("What survives", ["noise", "stickers"])
    assert len({line.style for line in shared.series}) == 2
    assert (alone.title, len(alone.series)) == ("Alone", 1)
    others = tuple(changed if one.key == check.key else one for one in result.checks)
    page = render_html(result.model_copy(update={"checks": others}), arrays, layout="single").html
    assert len(re.findall(r"What survives\. The band is the <a [^>]*>interval</a>\.", page)) == 1
    for name in ("noise", "stickers"):
        assert re.search(rf"</svg> {name}</li>", page)
        assert f'<th scope="row">{name}, ' in page


def roc_charts(result):
    check = result.check("profile.ood")
    return charts_of(check, result)


def test_hits_over_false_alarms_have_shares_on_both_axes_and_chance_as_diagonal(result):
    for chart, names in zip(roc_charts(result), (["softmax", "energy", "max-logit"], ["profile.ood"]), strict=True):
        assert chart.roc
        assert (chart.x_label, chart.y_label, chart.chance) == ("false alarms", "hits", None)
        assert [series.key for series in chart.series] == names
        svg = draw_chart(chart, "roc", bands=True)
        shown = ["".join(element.itertext()) for element in parse(svg).iter("text")]
        assert [text for text in shown if text.endswith("%")] == [f"{share} %" for share in range(0, 101, 20)] * 2
        assert "chance" in shown
        left, right = 520 * (0.13 + 0.86 * 0.03 / 1.06), 520 * (0.13 + 0.86 * 1.03 / 1.06)
        bottom, top = 300 * (0.825 - 0.795 * 0.03 / 1.06), 300 * (0.825 - 0.795 * 1.03 / 1.06)
        ends = [re.findall(r"-?[\d.]+", path) for path in re.findall(r'd="(M [^"LC]*L [^"LC]*)"', svg)]
        corners = pytest.approx([left, bottom, right, top], abs=0.1)
        assert any([float(x) for x in end] == corners for end in ends if len(end) == 4)


def test_hits_are_in_per_cent_whatever_their_interval_is_called(result):
    check = result.check("profile.ood")
    (curve,) = (curve for curve in check.curves if curve.figure is None)
    points = [
        point.model_copy(update={"estimate": point.estimate.model_copy(update={"method": "made up"})})
        for point in curve.points
    ]
    odd = curve.model_copy(update={"points": tuple(points)})
    (chart,) = charts_of(check.model_copy(update={"curves": (odd,)}), result)
    assert (chart.roc, chart.share) == (True, True)
    plain = odd.model_copy(update={"roc": False})
    (chart,) = charts_of(check.model_copy(update={"curves": (plain,)}), result)
    assert not chart.roc


def test_of_many_curves_of_hits_the_intervals_stand_in_the_table(result):
    check = result.check("profile.ood")
    shared = [curve for curve in check.curves if curve.figure]
    many = [curve.model_copy(update={"line": f"{curve.line} {n}"}) for n in range(2) for curve in shared]
    three, six = (charts_of(check.model_copy(update={"curves": tuple(curves)}), result)[0] for curves in (shared, many))
    assert (three.bands, six.bands) == (True, False)
    assert draw_chart(three, "a", bands=True).count('fill-opacity="0.16"') == 3
    assert draw_chart(six, "a", bands=True).count('fill-opacity="0.16"') == 0


def test_a_long_curve_is_told_in_a_dozen_points_and_its_ends(result):
    words = roc_charts(result)[0].series[0].words
    assert 10 <= words.count("%: ") <= 12
    assert words.startswith("softmax: 0 %: ")
    assert "; 100 %: 100.0 %" in words


def test_only_shares_of_correct_images_stand_under_attack(result):
    """An accuracy of something else, or a curve of hits, would read as robustness."""
    attack, ood = result.checks[0], result.check("profile.ood")
    rank = attack.curves[0].model_copy(update={"metric": "relevance_rank_accuracy"})
    hits = ood.curves[0].model_copy(update={"metric": "robust_accuracy"})
    odd = [ood.model_copy(update={"key": f"odd{n}", "curves": (rank, hits)}) for n in range(9)]
    alone, both = (result.model_copy(update={"checks": checks}) for checks in (tuple(odd), (*odd, attack)))
    assert overview_charts(alone) == ()
    assert [[series.key for series in chart.series] for chart in overview_charts(both)] == [[attack.key]]
    assert [chart.chance for chart in charts_of(odd[0], alone)] == [None, None]


def test_a_single_file_has_some_points_of_a_long_curve_in_its_table_and_the_folder_all(result):
    check = result.check("profile.ood")
    (curve,) = (curve for curve in check.curves if curve.figure is None)
    alone = result.model_copy(update={"checks": (check.model_copy(update={"curves": (curve,)}),), "gates": ()})
    single, folder = (render_html(alone, {}, layout=layout).html for layout in ("single", "folder"))
    note = "Points in between are left out to keep this file small"
    assert (note in single, note in folder) == (len(curve.points) > 21, False)
    tables = [re.findall(r"<details>.*?</details>", page, re.S)[0] for page in (single, folder)]
    assert [table.count('<th scope="row">') for table in tables] == [21, len(curve.points)]
    for point in (curve.points[0], curve.points[-1]):
        assert f'<th scope="row">{point.label}</th>' in tables[0]


def test_a_figure_has_no_digits_that_nobody_sees_and_no_empty_groups(svg):
    root = parse(svg)
    assert not re.search(r"\d\.\d{3}", " ".join(element.get("d", "") for element in root.iter()))
    assert not [group for group in root.iter("g") if not len(group)]
