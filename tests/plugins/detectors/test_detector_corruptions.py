"""Corruptions before a detector: thresholds worked out by hand, what is not asked, and a real network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fastest_detector import fastest_detector
from torch import nn
from toy_detectors import BRIGHT, SIDE, SquareDetector, toy_scenes

from auditkit.errors import ExecutionError, UsageError
from auditkit.findings import metrics
from auditkit.plan import configure
from auditkit.samples import Objects, Samples
from auditkit.testing import assert_contract, run_check, toy_detector
from auditkit_plugins.detectors import corruptions as module
from auditkit_plugins.detectors.corruptions import LEFT_OUT, DetectorCorruptions
from auditkit_plugins.distortions import DISTORTIONS

SIZE = 48


class Grey(nn.Module):
    """Sees bright squares of grey images as such of the first colour."""

    def __init__(self):
        super().__init__()
        self.squares = SquareDetector()

    def forward(self, images):
        return self.squares(torch.cat([images, torch.zeros_like(images), torch.zeros_like(images)], 1))


def scenes(*boxes, n=1, channels=3, crowd=False):
    """Return n black scenes with squares of the first colour, whose left and top in pixels are given."""
    images = torch.zeros(n, channels, SIZE, SIZE)
    for left, top in boxes:
        images[:, 0, top : top + SIDE, left : left + SIDE] = BRIGHT
    corners = [[left / SIZE, top / SIZE, (left + SIDE) / SIZE, (top + SIDE) / SIZE] for left, top in boxes]
    classes, many = torch.zeros(len(boxes), dtype=torch.int64), torch.full((len(boxes),), crowd)
    objects = Objects(torch.tensor(corners).reshape(-1, 4), classes, many, (SIZE, SIZE))
    labels = torch.zeros(n, dtype=torch.int64)
    return Samples(images, labels, tuple(f"scene {row}" for row in range(n)), objects=(objects,) * n)


def corrupted(samples, network=None, **options):
    check = DetectorCorruptions(**options)
    findings = run_check(check, toy_detector(network or SquareDetector(), samples), samples)
    return findings, metrics(check.spec, findings.columns, matches=findings.matches)[0]


def test_the_check_keeps_the_contract():
    check = DetectorCorruptions(("gaussian_noise", "motion_blur", "zoom_blur", "contrast", "saturate"), (2, 5), 3)
    assert_contract(check, network=SquareDetector(), samples=toy_scenes(6))


def test_a_preset_keeps_the_contract():
    smoke = DetectorCorruptions.spec.presets["smoke"]
    assert_contract(DetectorCorruptions, options=smoke, network=SquareDetector(), samples=toy_scenes(4, seed=1))


def test_squares_are_found_up_to_the_severity_that_crosses_the_threshold():
    """The square sticks out by 0.9 k + 0.1 (1 - k) under contrast k: 0.626, 0.460 and 0.196 at severities 1, 2, 5.

    From 0.529 on it counts as found, and from 0.217 on it is a candidate, which average precision looks at. Brightness
    takes nothing from the square.
    """
    findings, found = corrupted(
        scenes((16, 16), n=5), corruptions=("brightness", "contrast"), severities=(1, 2, 5), gallery=2
    )
    assert [found[f"vanish_rate@{severity}"].value for severity in (1, 2, 5)] == [0, 0.5, 0.5]
    assert [found[f"ap50_contrast@{severity}"].value for severity in (1, 2, 5)] == [1, 1, 0]
    assert [found[f"ap50_brightness@{severity}"].value for severity in (1, 2, 5)] == [1, 1, 1]
    assert found["clean_ap50"].value == 1
    assert found["ap50_drop"].value == found["ap50_drop@5"].value == pytest.approx(1 - found["ap50@5"].value)
    assert found["ap50@5"].value == pytest.approx(51 / 101)
    assert (findings.forwards == 1 + 2 * 3).all()
    assert [(one.sample, one.caption) for one in findings.exhibits] == [
        (f"scene {row}", "1 of 1 objects are lost: contrast of severity 2") for row in (0, 1)
    ]
    assert [each.tone for each in findings.exhibits[0].panels[1].marks] == ["lost"]


def test_boxes_are_carried_where_a_corruption_moves_pixels(monkeypatch):
    """Shifted by half a square, a box that stayed would overlap the square by a third only."""
    monkeypatch.setitem(own_distortions(monkeypatch), "motion_blur", lambda images, severity, rng: shifted(images, 8))
    _, found = corrupted(scenes((16, 16), n=2), corruptions=("motion_blur",), severities=(1,))
    assert found["ap50_motion_blur@1"].value == 1
    assert found["vanish_rate@1"].value == 0


def shifted(images, pixels):
    """Move images to the right; what comes in on the left is their first column."""
    return torch.cat([images[..., :1].expand(*images.shape[:-1], pixels), images[..., :-pixels]], -1)


def own_distortions(monkeypatch):
    copy = dict(DISTORTIONS)
    monkeypatch.setattr(module, "DISTORTIONS", copy)
    return copy


def test_severities_share_their_draws_and_corruptions_do_not(monkeypatch):
    seen = {}

    def spy(name):
        def distortion(images, severity, rng):
            seen[name, severity] = rng.keys
            return images

        return distortion

    monkeypatch.setattr(module, "DISTORTIONS", {name: spy(name) for name in DISTORTIONS})
    corrupted(scenes((0, 0), n=3), corruptions=("gaussian_noise", "shot_noise"), severities=(1, 5))
    assert torch.equal(seen["gaussian_noise", 1], seen["gaussian_noise", 5])
    assert not (seen["gaussian_noise", 1] == seen["shot_noise", 1]).any()


def test_what_was_not_asked_is_not_reported():
    _, found = corrupted(scenes((0, 0), n=3), corruptions=("jpeg",), severities=(3,))
    assert {name for name in found if name.startswith("ap50_")} == {
        "ap50_jpeg",
        "ap50_jpeg@3",
        "ap50_drop",
        "ap50_drop@3",
    }


def test_grey_images_are_not_asked_about_saturation():
    samples = scenes((0, 0), (16, 32), n=2, channels=1)
    _, found = corrupted(samples, Grey(), corruptions=("saturate", "brightness"), severities=(1,))
    assert found["clean_ap50"].value == 1
    assert "ap50_brightness" in found
    assert "ap50_saturate" not in found
    with pytest.raises(ExecutionError, match="saturate needs images in colour"):
        corrupted(samples, Grey(), corruptions=("saturate",))


def test_images_without_objects_and_crowds_count_neither_for_nor_against():
    empty, crowd = scenes(n=2), scenes((16, 16), n=2, crowd=True)
    for samples in (empty, crowd):
        findings, found = corrupted(samples, corruptions=("contrast",), severities=(2,))
        assert not found
        assert (findings.columns["in_view@2"] == 0).all()
        assert not findings.exhibits


def test_what_bends_an_image_is_refused_by_name():
    assert set(DISTORTIONS) - set(DetectorCorruptions().corruptions) == LEFT_OUT
    with pytest.raises(UsageError, match="elastic bends the image, and boxes cannot follow"):
        configure(DetectorCorruptions, {"corruptions": "fog, elastic"}, "noise.corruptions", "the test")
    chosen = configure(DetectorCorruptions, {"corruptions": "fog, jpeg fog", "severities": "5, 1"}, "c", "the test")
    assert (chosen.check.corruptions, chosen.check.severities) == (("fog", "jpeg"), (1, 5))


def test_a_real_detector_loses_objects_to_noise():
    detector, samples = fastest_detector(4)
    check = DetectorCorruptions(("gaussian_noise",), (5,), 1)
    findings = run_check(check, detector, samples)
    found, _ = metrics(check.spec, findings.columns, matches=findings.matches)
    assert found["ap50@5"].value < found["clean_ap50"].value
    assert found["vanish_rate@5"].value > 0.3
    assert np.isfinite(findings.columns["vanished@5"]).all()
