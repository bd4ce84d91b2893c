"""The report of a detector's audit: true words, boxes with a legend, precision where a classifier has accuracy."""

from __future__ import annotations

import io
import json
import re

import pytest
import yaml
from detector_audit import detector_audit, precision, rows
from outlines import Outline
from rich.console import Console

from auditkit.gate import judge
from auditkit.report import render_html
from auditkit.report.bars import gate_bar
from auditkit.report.curves import charts_of, overview_charts
from auditkit.report.cyclonedx import cyclonedx_bom
from auditkit.report.in_toto import in_toto_statement
from auditkit.report.junit import junit_xml
from auditkit.report.markdown import markdown_summary
from auditkit.report.model_index import model_index
from auditkit.report.page import build_page
from auditkit.report.plain_words import plain_words
from auditkit.report.sarif import sarif_log
from auditkit.report.telling import telling_exhibit
from auditkit.report.text import error_rates, estimate_text, verdict_sentence
from auditkit.report.tones import TONES
from auditkit.report.worst import worst_cases, worst_sentence
from auditkit.requirements import parse_gate
from auditkit.terminal import print_result

LAYOUTS = ("single", "folder")
OF_CLASSIFIERS = re.compile(r"classif|accurac|images right|stay right|robust accuracy|guess", re.IGNORECASE)


@pytest.fixture(scope="module")
def detector_pages(detected, detector_arrays):
    return {layout: render_html(detected, detector_arrays, layout=layout) for layout in LAYOUTS}


def printed(result) -> str:
    text = io.StringIO()
    print_result(result, Console(file=text, width=200))
    return text.getvalue()


def test_no_output_speaks_of_a_detector_as_of_a_classifier(detected, detector_pages):
    found = {
        "page": Outline(detector_pages["folder"].html).text,
        "plain words": " ".join(plain_words(detected)),
        "headline": verdict_sentence(detected),
        "Markdown": markdown_summary(detected),
        "terminal": printed(detected),
        "JUnit": junit_xml(detected),
        "SARIF": sarif_log(detected),
        "CycloneDX": cyclonedx_bom(detected),
        "in-toto": in_toto_statement(detected),
        "model-index": model_index(detected),
    }
    assert {name: OF_CLASSIFIERS.findall(text) for name, text in found.items() if OF_CLASSIFIERS.search(text)} == {}
    assert "a detector of 80 classes" in found["page"]


def test_model_cards_and_bills_of_materials_name_the_task(detected, result):
    (entry,) = yaml.safe_load(model_index(detected))["model-index"]
    assert entry["results"][0]["task"] == {"type": "object-detection", "name": "Object Detection"}
    args = {metric["type"]: metric["args"] for metric in entry["results"][0]["metrics"]}
    assert (args["found_rate"]["objects"], "images" in args["found_rate"], args["ap"]["images"]) == (220, False, 32)
    card = json.loads(cyclonedx_bom(detected))["components"][0]["modelCard"]
    assert card["modelParameters"]["task"] == "object-detection"
    assert "AP50 under attack is an upper bound" in card["considerations"]["technicalLimitations"][0]
    assert "image-classification" in model_index(result)


def test_precision_losses_and_shares_of_objects_read_in_per_cent(detected):
    dpatch = detected.check("patch.dpatch")
    assert estimate_text(dpatch.metrics["ap50"]) == "10.0 % (4.0 to 16.0 %)"
    assert estimate_text(dpatch.metrics["ap50_drop"]) == "-2.0 % (-8.0 to 4.0 %)"
    assert estimate_text(detected.check("patch.vanish").metrics["vanish_rate"]) == "70.0 % (64.0 to 76.0 %)"
    few = precision(0.2).model_copy(update={"method": "everything possible (fewer than 8 images with objects)"})
    assert estimate_text(few).startswith("20.0 % (")
    assert "≥ 20 % required" in (build_page(detected, "folder").reason or "")


def test_a_bar_of_a_loss_shows_what_lies_below_zero(detected):
    (gate,) = judge(detected, [parse_gate("patch.dpatch/ap50_drop <= 0.1")]).gates
    whole = re.search(r'<rect x="([\d.]+)" y="8.0" width="([\d.]+)"', gate_bar(gate))
    assert whole is not None
    assert float(whole[1]) > 6  # not cut at the left end
    assert float(whole[2]) > 60


def test_objects_are_counted_as_objects(detected, detector_pages):
    text = Outline(detector_pages["folder"].html).text
    assert "32 of street, 220 objects" in text
    assert "104 objects" in text
    assert re.search(r"found_rate` \| 45\.0 % \(39\.0 to 51\.0 %\) \| 220 objects \|", markdown_summary(detected))
    assert "tasksetection" not in text
    for fact in ("task", "detection", "box_units", "shares", "suppression", "0.45", "annotated objects"):
        assert fact in text
    bare = detected.model_copy(update={"checks": detected.checks[1:]})
    assert build_page(bare, "folder").objects is None


def test_error_rates_of_resampled_intervals_claim_no_exactness(detected, result):
    assert "by luck at most about 2.5 %" in error_rates(detected)
    assert "about" not in error_rates(result)


def test_the_worst_cases_are_those_that_leave_least_precision(detected):
    cases = [(case.norm, case.budget, case.estimate.value, case.check) for case in worst_cases(detected)]
    assert cases == [
        ("area", "0.025", 0.38, "patch.dpatch"),
        ("area", "0.1", 0.1, "patch.dpatch"),
        ("box", "0.025", 0.39, "patch.vanish"),
        ("box", "0.1", 0.08, "patch.vanish"),
        ("linf", "2/255", 0.15, "noise.pgd"),
        ("linf", "8/255", 0.02, "noise.pgd"),
    ]
    assert (worst_sentence(detected) or "").startswith("AP50, the lowest that any attack reached: 38.0 %")
    assert [case.words for case in worst_cases(detected)][1:4:2] == ["10 % of the pixels", "10 % of each object's box"]
    assert "| Budget | Lowest AP50 | By | Images |" in markdown_summary(detected)


def test_the_overview_has_precision_over_each_kind_of_budget(detected):
    charts = overview_charts(detected)
    assert [chart.x_label for chart in charts] == ["share of the picture", "L-inf budget", "severity"]
    assert all(chart.y_label == "AP50" and chart.share and chart.chance is None for chart in charts)
    assert [[series.key for series in chart.series] for chart in charts][:2] == [["patch.dpatch"], ["noise.pgd"]]
    (shared,) = charts_of(detected.check("patch.dpatch"), detected)
    assert (len(shared.series), shared.y_label, shared.share) == (3, "average precision", True)


def test_checks_are_led_by_what_the_attack_left(detected):
    ungated = judge(detected, [])
    keys = {view.record.key: view.key_metric for view in build_page(ungated, "folder").checks}
    assert keys == {
        "samples.precision": "ap50",
        "patch.dpatch": "ap50",
        "patch.vanish": "vanish_rate",
        "noise.pgd": "ap50",
        "noise.corruptions": "ap50",
    }


def test_the_first_screen_has_the_images_before_and_after_and_not_the_patch(detected, detector_arrays):
    telling = telling_exhibit(detected, detector_arrays)
    assert telling is not None
    assert [panel.title for panel in telling.exhibit.panels] == ["clean", "attacked"]
    open_ = telling_exhibit(judge(detected, []), detector_arrays)
    assert open_ is not None
    assert (open_.check.key, open_.why) == ("patch.dpatch", "From the attack that left least of the average precision")
    first, *others = rows("made", dict(detector_arrays))
    turned = first.model_copy(update={"panels": (first.panels[2], *first.panels[:2])})
    check = detected.check("patch.dpatch").model_copy(update={"exhibits": (turned, *others)})
    arrays = dict(detector_arrays)
    rows("made", arrays)
    telling = telling_exhibit(detected.model_copy(update={"checks": (check,)}), arrays)
    assert telling is not None
    assert [panel.title for panel in telling.exhibit.panels] == ["clean", "attacked"]


def legends(page) -> list[list[str]]:
    found = re.findall(r'<ul class="legend boxes">(.*?)</ul>', page.html, re.DOTALL)
    return [
        [" ".join(re.sub("<.*?>", " ", item).split()) for item in re.findall("<li>(.*?)</li>", one)] for one in found
    ]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_legend_explains_the_tones_that_occur_where_boxes_are_shown(
    detected, detector_arrays, detector_pages, layout
):
    first, gallery = legends(detector_pages[layout])
    assert first == ["Boxes", *(tone.word for tone in TONES.values())]
    assert gallery == ["Boxes", *(tone.meaning for tone in TONES.values())]
    few = [
        exhibit.model_copy(update={"panels": exhibit.panels[:1]}) for exhibit in detected.check("patch.dpatch").exhibits
    ]
    check = detected.check("patch.dpatch").model_copy(update={"exhibits": tuple(few)})
    bare = detected.model_copy(update={"checks": (check,)})
    assert legends(render_html(bare, detector_arrays, layout=layout)) == [
        ["Boxes", "annotated", "found", "wrong: nothing of this class is there"]
    ]
    assert legends(render_html(detected, {}, layout=layout)) == []


def test_no_legend_stands_where_no_box_does(pages):
    assert legends(pages["folder"]) == []
    assert 'class="marked"' not in pages["folder"].html


@pytest.mark.parametrize("layout", LAYOUTS)
def test_who_cannot_see_a_picture_is_told_its_boxes(detector_pages, layout):
    alternatives = [image["alt"] for image in Outline(detector_pages[layout].html).named("img")]
    assert "clean, 000000000000.jpg: cat vanishes, image 0; 1 annotated, 1 found, 1 wrong" in alternatives
    assert "attacked, 000000000000.jpg: cat vanishes, image 0; 1 wrong, 1 missed, 1 patch" in alternatives
    assert "the patch, 000000000000.jpg: cat vanishes, image 0" in alternatives


@pytest.mark.parametrize("layout", LAYOUTS)
def test_links_lead_somewhere_and_the_glossary_has_the_words_of_detectors(detector_pages, pages, layout):
    page = Outline(detector_pages[layout].html)
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = {attributes["href"][1:] for attributes in page.named("a") if attributes["href"].startswith("#")}
    assert links <= ids
    assert {"term-average-precision", "term-vanish-rate", "term-overlap", "term-boxes"} <= ids
    assert not {"term-robust-accuracy", "term-clean-accuracy", "term-chance"} & ids
    assert "term-average-precision" not in pages[layout].html


@pytest.mark.parametrize("layout", LAYOUTS)
def test_texts_of_boxes_and_detectors_act_nowhere(hostile_detected, detector_arrays, layout):
    page = render_html(hostile_detected, detector_arrays, layout=layout)
    seen = Outline(page.html)
    assert not seen.named("script")
    assert all("onerror" not in attributes for _, attributes in seen.tags)
    assert "\x08" not in page.html
    assert "\u202e" not in page.html
    assert len(legends(page)) == 2


def test_a_detectors_report_is_the_same_whenever_it_is_made(detected, detector_arrays, detector_pages):
    again = detector_audit({})
    assert render_html(again, dict(detector_arrays), layout="folder") == detector_pages["folder"]
