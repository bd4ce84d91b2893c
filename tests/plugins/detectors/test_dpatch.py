"""A patch in the scene is taken for objects, more of them than noise or grey of its size, wherever it lies."""

import numpy as np
import pytest
import torch
from toy_detectors import SquareDetector, toy_scenes

from auditkit.errors import ExecutionError
from auditkit.findings import metrics
from auditkit.testing import assert_contract, run_check, run_learn, toy_detector
from auditkit_plugins.detectors.dpatch import DPatch

# A square of 24 pixels holds a whole window of the detector wherever it lies.
AREA = 0.15


def judged(check, samples=None):
    samples = samples or toy_scenes(24)
    detector = toy_detector(SquareDetector(), samples)
    lesson = run_learn(check, detector, samples.take(range(12)))
    findings = run_check(check, detector, samples.take(range(12, 24)), lesson=lesson)
    return lesson, metrics(DPatch.spec, findings.columns, matches=findings.matches)[0], findings


@pytest.fixture(scope="module")
def found():
    return judged(DPatch(area=(AREA,), pieces=1, steps=60, mini_batch=8, draws=2))


def test_a_patch_is_falsely_reported_and_costs_precision_and_neither_noise_nor_grey_does_more(found):
    _, estimates, _ = found
    assert estimates["false_classes"].value > 0.4
    assert estimates["ap50"].value < estimates["noise_ap50"].value
    assert estimates["ap50"].value < estimates["plain_ap50"].value
    assert estimates["ap50_drop"].value > 2 * max(
        estimates["noise_ap50_drop"].value, estimates["plain_ap50_drop"].value
    )


def test_draws_of_one_image_are_one_image_to_the_interval(found):
    _, estimates, findings = found
    assert estimates["ap50"].n == 12
    assert len(findings.matches[f"by_patch@{AREA}"].object_image) == 2 * len(findings.matches["clean"].object_image)


def test_a_target_is_what_the_patch_is_taken_for():
    lesson, estimates, _ = judged(DPatch(area=(AREA,), pieces=1, target=2, steps=60, mini_batch=8, draws=2))
    red, green, blue = lesson[f"patch@{AREA}"][0].mean((1, 2))
    assert blue > 0.9
    assert max(red, green) < 0.1
    assert estimates["target_rate"].value > 0.8


def test_the_patch_is_drawn_where_it_lies_with_what_it_is_taken_for(found):
    exhibit = found[2].exhibits[0]
    clean, patched, pieces = exhibit.panels
    assert sum(mark.tone == "patch" for mark in patched.marks) == 1
    assert any(mark.tone == "wrong" for mark in patched.marks)
    assert all(mark.tone == "found" for mark in clean.marks)
    assert pieces.array.shape == (24, 24, 3)


@pytest.mark.parametrize("options", [{"pieces": 1}, {"pieces": 4, "draws": 1}, {"target": 1}])
def test_the_contract_is_kept(options):
    quick = {"steps": 3, "mini_batch": 4, "area": (0.1,)}
    assert_contract(DPatch, options={**quick, **options}, network=SquareDetector(), samples=toy_scenes(12))


def test_every_area_has_a_patch_of_its_own_and_a_point_on_the_curve():
    lesson, estimates, _ = judged(DPatch(area=(0.05, AREA), pieces=1, steps=2, mini_batch=4, draws=1))
    assert lesson["patch@0.05"].shape == (1, 3, 14, 14)
    assert lesson[f"patch@{AREA}"].shape == (1, 3, 24, 24)
    assert {"ap50@0.05", f"ap50@{AREA}"} <= estimates.keys()


def test_an_object_under_the_patch_vanishes_whatever_is_printed():
    scenes = toy_scenes(24, most=1)
    _, estimates, findings = judged(DPatch(area=(0.9,), pieces=1, steps=1, mini_batch=4, draws=1), scenes)
    assert estimates["plain_vanish_rate"].value == 1
    assert np.array_equal(findings.columns["vanished_by_plain@0.9"], findings.columns["found"])


def test_a_class_that_does_not_exist_and_pieces_without_a_pixel_are_told():
    samples = toy_scenes(6)
    detector = toy_detector(SquareDetector(), samples)
    with pytest.raises(ExecutionError, match="target is one of the 3 classes from 0; got 3"):
        run_learn(DPatch(target=3), detector, samples)
    with pytest.raises(ExecutionError, match=r"4 pieces on 0\.0001 of an image of 64x64 have no pixel"):
        run_learn(DPatch(area=(0.0001,)), detector, samples)
    with pytest.raises(ValueError, match="share of the image"):
        DPatch(area=(0.0,))


def test_classes_that_occur_in_training_count_more():
    from auditkit_plugins.detectors.dpatch import _class_weights

    samples = toy_scenes(3, most=1)
    weights = _class_weights(samples.objects, toy_detector(SquareDetector(), samples))
    seen = {int(each.classes[0]) for each in samples.objects}
    assert weights.tolist() == [[3.0 if colour in seen else 1.0 for colour in range(3)]]
    assert weights.dtype == torch.float32
