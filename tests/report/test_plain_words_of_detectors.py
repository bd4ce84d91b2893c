"""The plain words of a detector's audit: what patches and noise leave, beside harmless patches of the same size."""

from __future__ import annotations

import json
import re

import pytest
from detector_audit import clean_check, corruptions, detector_audit, dpatch, pgd, vanish

from auditkit.report.plain_words import plain_words
from auditkit.report.text import value_text


def words(result, *checks):
    return plain_words(result.model_copy(update={"checks": checks}))


def test_what_was_tested_comes_first_with_precision_and_found_objects(detected):
    assert words(detected, clean_check())[0] == (
        "finder.onnx, a detector of 80 classes, was put to 1 check: on 32 images as they are, its average precision at "
        "an overlap of one half is 40.0 %; it finds 45.0 % of 220 objects."
    )
    assert words(detected, dpatch({}))[0].endswith("its average precision at an overlap of one half is 41.0 %.")
    assert words(detected, corruptions())[0].endswith("at an overlap of one half is 40.0 %.")
    bare = clean_check().model_copy(update={"metrics": {}})
    assert words(detected, bare)[0] == "finder.onnx, a detector of 80 classes, was put to 1 check on 32 images."


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ({}, "noise 30.0 %, a plain patch 35.0 %: it is the pattern that harms."),
        ({"noise": 0.15}, "noise 15.0 %, a plain patch 35.0 %: whether the pattern harms more, so few images cannot"),
        ({"pattern": 0.3, "noise": 0.1}, "noise 10.0 %, a plain patch 35.0 %: the pattern harms less than that."),
    ],
)
def test_a_patch_is_blamed_only_where_its_interval_lies_apart_from_the_worst_control(detected, values, outcome):
    (_, sentence, _) = words(detected, dpatch({}, **values))
    assert sentence.startswith(
        "A patch on 2.5 % of the picture (patch.dpatch) leaves an average precision of 38.0 %, one on 10 % leaves "
    )
    assert "and none 41.0 %; of the same size, " in sentence
    assert outcome in sentence


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ({}, "noise 15.0 %, a plain patch 10.0 %: it is the pattern that harms."),
        ({"plain": 0.65}, "noise 15.0 %, a plain patch 65.0 %: whether the pattern harms more, so few images cannot"),
        ({"pattern": 0.1, "noise": 0.5}, "noise 50.0 %, a plain patch 10.0 %: the pattern harms less than that."),
    ],
)
def test_vanished_objects_are_told_beside_those_of_the_controls(detected, values, outcome):
    (_, sentence, _) = words(detected, vanish(**values))
    found = value_text(vanish(**values).metrics["vanish_rate"])
    assert sentence.startswith(
        f"A patch of 10 % of an object's box (patch.vanish) makes {found} of the objects vanish that are found without"
    )
    assert outcome in sentence


def test_without_controls_nobody_is_blamed(detected):
    check = dpatch({})
    alone = {name: one for name, one in check.metrics.items() if not name.startswith(("noise_", "plain_"))}
    (_, sentence, _) = words(detected, check.model_copy(update={"metrics": alone}))
    assert sentence.endswith("one on 10 % leaves 10.0 %, and none 41.0 %.")


def test_of_two_attacks_the_worse_is_told(detected):
    strong = dpatch({}, pattern=0.05).model_copy(update={"key": "patch.dpatch@strong"})
    (_, sentence, _) = words(detected, dpatch({}), strong)
    assert "(patch.dpatch@strong)" in sentence
    strong = vanish(pattern=0.9).model_copy(update={"key": "patch.vanish@strong"})
    (_, sentence, _) = words(detected, vanish(), strong)
    assert "(patch.vanish@strong)" in sentence


def test_patches_of_others_are_told_by_their_norm_and_those_on_objects_never_as_patches_in_the_picture(detected):
    other = dpatch({}).model_copy(update={"id": "patch.other", "key": "patch.other"})
    assert "patches in the picture" in words(detected, other)[-1]
    assert "(patch.other)" in words(detected, other.model_copy(update={"norm": "area"}))[1]
    on_objects = words(detected, vanish().model_copy(update={"norm": "area"}))
    assert "patches in the picture" in on_objects[-1]
    assert not any("of the picture" in sentence for sentence in on_objects)


def test_noise_and_corruptions_are_told_by_their_least_and_largest(detected):
    assert words(detected, pgd(), corruptions())[1:3] == (
        "With noise of up to 2 of 255 brightness levels, searched for each image, average precision is 15.0 %; "
        "with noise of up to 8 of 255 brightness levels, 2.0 %, and 98.0 % of the objects vanish.",
        "On corrupted images (noise.corruptions) it is 36.0 % at severity 1, and 11.0 % at severity 5.",
    )


def test_what_was_not_tested_comes_last(detected):
    assert words(detected, clean_check())[-1] == (
        "Not tested: patches in the picture, patches on objects, attacks with noise, corrupted images, "
        "attackers stronger than these, images unlike these."
    )
    assert plain_words(detected)[-1] == "Not tested: attackers stronger than these, images unlike these."
    failed = pgd().model_copy(update={"status": "failed", "reason": "broken", "metrics": {}})
    assert (
        "attacks with noise, corrupted images, what 1 of 2 checks would have shown"
        in (words(detected, clean_check(), failed)[-1])
    )
    (sentence,) = words(detected, failed)
    assert "nothing is known" in sentence


def test_at_most_six_sentences_hold_no_number_but_those_of_the_result():
    made = detector_audit({})
    sentences = plain_words(made)
    assert len(sentences) == 6
    known = {value_text(estimate) for check in made.checks for estimate in check.metrics.values()}
    known |= {f"{100 * float(area):g} %" for area in ("0.025", "0.1")}
    stored = json.dumps(made.model_dump(mode="json"))
    for number in re.findall(r"[\d.]*\d(?: %)?", " ".join(sentences)):
        assert number in known or number == "5" or re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", stored)
