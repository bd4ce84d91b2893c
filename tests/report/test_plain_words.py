"""The plain words say what the result says, compare only what lies apart, and hold no number of their own."""

from __future__ import annotations

import json
import re

import pytest
from whole_audit import bounded, noticed

from auditkit.report.plain_words import plain_words
from auditkit.report.text import value_text
from auditkit.result import FlagRecord
from auditkit.stats import proportion


def attacked(result, **lowest):
    """Return the result with one attack a norm: images right of 100 at each budget."""
    checks = []
    for norm, budgets in lowest.items():
        metrics = {f"robust_accuracy@{budget}": proportion(k, 100) for budget, k in budgets.items()}
        update = {"key": f"made.{norm}", "norm": norm, "metrics": {"clean_accuracy": proportion(94, 100)} | metrics}
        checks.append(result.checks[0].model_copy(update=update))
    return result.model_copy(update={"checks": tuple(checks), "flags": (), "notes": ()})


def words(result):
    return " ".join(plain_words(result))


def test_where_nothing_was_run_nothing_is_known(nothing_done):
    (sentence,) = plain_words(nothing_done)
    assert "no check was run to its end: nothing is known" in sentence


def test_what_was_tested_comes_first_with_the_accuracy_on_images_as_they_are(result):
    first = plain_words(attacked(result, linf={"8/255": 5}))[0]
    assert first == (
        "signs-resnet20.onnx, a classifier of 43 classes, was put to 1 check: of 100 images as they are, "
        "it gets 94.0 % right."
    )
    bare = result.checks[3].model_copy(update={"metrics": {}})
    first = plain_words(result.model_copy(update={"checks": (bare,)}))[0]
    assert first == "signs-resnet20.onnx, a classifier of 43 classes, was put to 1 check on 600 images."


@pytest.mark.parametrize(
    ("lowest", "sentence"),
    [
        (
            {"linf": {"8/255": 5}},
            "With noise of up to 8 of 255 brightness levels, searched for each image, 5.0 % stay right.",
        ),
        (
            {"linf": {"8/255": 5, "0.5/255": 80}},
            "With noise of up to 0.5 of 255 brightness levels, searched for each image, 80.0 % stay right; "
            "with noise of up to 8 of 255 brightness levels, 5.0 %.",
        ),
        ({"linf": {"0.03": 5}}, "With noise of size 0.03 (L-inf), searched for each image, 5.0 % stay right."),
        ({"l2": {"0.5": 5}}, "With noise of size 0.5 (L2), searched for each image, 5.0 % stay right."),
        ({"l1": {"9": 5}}, "With noise of size 9 (L1), searched for each image, 5.0 % stay right."),
        ({"l0": {"1": 5}}, "With 1 changed pixel, searched for each image, 5.0 % stay right."),
        ({"l0": {"3": 5}}, "With 3 changed pixels, searched for each image, 5.0 % stay right."),
        ({"area": {"0.05": 5}}, "With stickers on 5 % of the pixels, searched for each image, 5.0 % stay right."),
        ({"l2": {"0.5": 50}, "linf": {"2/255": 5}}, "With noise of up to 2 of 255 brightness levels, "),
    ],
)
def test_the_smallest_and_the_largest_change_are_told(result, lowest, sentence):
    assert sentence in words(attacked(result, **lowest))


def test_the_worst_kind_is_named_only_where_the_intervals_lie_apart(result):
    apart = words(attacked(result, linf={"8/255": 60}, area={"0.1": 5}, l0={"1": 90}))
    assert (
        "5.0 % stay right with stickers on 10 % of the pixels, 90.0 % with 1 changed pixel: "
        "within these budgets, stickers do most harm." in apart
    )
    assert "noise does most harm" in words(attacked(result, linf={"8/255": 5}, area={"0.1": 60}))
    together = words(attacked(result, linf={"8/255": 6}, area={"0.1": 5}))
    assert "whether stickers or noise harm more, so few images cannot tell." in together
    assert "most harm" not in together
    assert "harm" not in words(attacked(result, linf={"8/255": 5}))


def test_attacks_without_a_bound_are_not_told(result):
    assert "stay right" not in words(attacked(result, free={"8/255": 0}))


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        (
            noticed(),
            "60.0 % to 90.0 %, depending on their kind, are noticed (detect.stickers), at the price of a false",
        ),
        (noticed(), "a false alarm on 4.8 % of the clean images."),
        (noticed(60, 60, None), "Of the attacks that fool it, 60.0 % are noticed (detect.stickers)."),
        (bounded(), "Bounded activations help: under attack 50.0 % stay right, and 20.0 % without them"),
        (bounded(), "(prevent.bounded); of clean images 91.0 %, and 93.0 % without."),
        (bounded(20, 22, clean=False), "make no clear difference: under attack 22.0 % stay right, and 20.0 % without"),
        (bounded(20, 22, clean=False), "without them (prevent.bounded). "),
        (bounded(60, 20), "Bounded activations do harm: under attack 20.0 %"),
    ],
)
def test_what_is_noticed_and_what_bounds_change_is_told(result, check, sentence):
    made = attacked(result, linf={"8/255": 5})
    assert "notice" not in words(made)
    assert "Bounded" not in words(made)
    assert sentence in words(made.model_copy(update={"checks": (*made.checks, check)}))


def test_what_was_not_tested_comes_last(result):
    noise = attacked(result, linf={"8/255": 5})
    assert plain_words(noise)[-1] == (
        "Not tested: attacks with changed pixels, attacks with stickers, attackers stronger than these, "
        "images unlike these."
    )
    every = attacked(result, linf={"8/255": 5}, l0={"1": 5}, area={"0.1": 5})
    samples = every.samples.model_copy(update={"outside": "cats"})
    assert (
        plain_words(every.model_copy(update={"samples": samples}))[-1] == "Not tested: attackers stronger than these."
    )
    skipped = result.check("detect.cover")
    silent = noise.model_copy(update={"checks": (*noise.checks, skipped)})
    assert "what 1 of 2 checks would have shown" in plain_words(silent)[-1]


def test_doubts_and_remarks_are_told(result):
    made = attacked(result, linf={"8/255": 5})
    flag = FlagRecord(id="sanity.masking", check="a", text="b", remedy="c")
    assert "1 remark under “Read with care” limits all of this. Not" in words(
        made.model_copy(update={"flags": (flag,)})
    )
    two = made.model_copy(update={"flags": (flag,), "notes": result.notes})
    assert "2 remarks under “Read with care” limit all of this. Not" in words(two)
    doubt = flag.model_copy(update={"doubts": ("gradients",)})
    assert "the model may be weaker than these numbers say" in words(made.model_copy(update={"flags": (doubt,)}))


@pytest.mark.parametrize("name", ["result", "whole", "ungated", "nothing_done"])
def test_three_to_six_sentences_hold_no_number_but_those_of_the_result(request, name):
    made = request.getfixturevalue(name)
    sentences = plain_words(made)
    assert 3 <= len(sentences) <= 6 or name == "nothing_done"
    known = {value_text(estimate) for check in made.checks for estimate in check.metrics.values()}
    stored = json.dumps(made.model_dump(mode="json"))
    for number in re.findall(r"[\d.]*\d(?: %)?", " ".join(sentences).replace(made.model.name, "")):
        counts = {str(len(made.checks)), str(sum(check.status == "done" for check in made.checks)), "2"}
        assert number in known or number in counts or re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", stored), (
            number
        )
