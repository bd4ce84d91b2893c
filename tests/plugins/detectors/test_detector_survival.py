"""A detector in front of a camera: boxes go along, what left the picture is not asked for, and a real network."""

from __future__ import annotations

import pytest
import torch
from fastest_detector import fastest_detector
from torch import nn
from toy_detectors import BRIGHT, SIDE, SquareDetector, toy_scenes

from auditkit.findings import metrics
from auditkit.samples import Objects, Samples
from auditkit.testing import assert_contract, run_check, toy_detector
from auditkit_plugins.camera import DISTORTIONS, RANDOM
from auditkit_plugins.camera.geometry import pixels
from auditkit_plugins.detectors import survival as module
from auditkit_plugins.detectors.survival import DetectorSurvival

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


def seen_by_camera(samples, network=None, **options):
    check = DetectorSurvival(**options)
    findings = run_check(check, toy_detector(network or SquareDetector(), samples), samples)
    return findings, metrics(check.spec, findings.columns, matches=findings.matches)[0]


@pytest.fixture
def shift(monkeypatch):
    """Let `placement` move every image so many pixels to the right, black coming in, and all else do nothing."""

    def by(count):
        def moved(images, strength, rng, step):
            return torch.cat([torch.zeros_like(images[..., :count]), images[..., :-count]], -1)

        def lines(name, images, strength, rng, step):
            down, right = pixels(images)
            return (down, right - count) if name == "placement" else None

        still = dict.fromkeys(DISTORTIONS, lambda images, strength, rng, step: images)
        monkeypatch.setattr(module, "DISTORTIONS", still | {"placement": moved})
        monkeypatch.setattr(module, "sightlines", lines)

    return by


@pytest.mark.parametrize("options", [{"strengths": (1, 3)}, {"strengths": "2", "draws": 2, "gallery": 1}])
def test_the_check_keeps_the_contract(options):
    assert_contract(DetectorSurvival, options=options, network=SquareDetector(), samples=toy_scenes(4))


def test_an_object_is_looked_for_where_the_camera_puts_it(shift):
    """Shifted by half a square, a box that stayed would overlap the square by a third only."""
    shift(8)
    findings, found = seen_by_camera(scenes((0, 0), (16, 32), n=3))
    assert found["stays_found_placement"].value == found["found_rate"].value == 1
    assert found["ap50_placement"].value == found["ap50@3"].value == 1
    assert (findings.columns["in_view_placement"] == 2).all()
    assert not findings.exhibits


def test_an_object_that_left_the_picture_counts_neither_for_nor_against(shift):
    """Of two squares one is shifted out for the most part; the detector still sees the rest of none."""
    shift(12)
    findings, found = seen_by_camera(scenes((16, 0), (32, 32), n=3), strengths=(2,))
    assert (findings.columns["in_view_placement"] == 1).all()
    assert (findings.columns["in_view_jpeg"] == 2).all()
    assert found["stays_found_jpeg"].value == 1
    assert (findings.matches["by_placement"].object_image == [0, 1, 2]).all()


def test_what_is_lost_is_lost_in_its_own_place(shift):
    shift(16)
    # The square is in view and found, but what the detector is shown after rounding is black.
    module.DISTORTIONS["rounding"] = lambda images, strength, rng, step: torch.zeros_like(images)
    findings, found = seen_by_camera(scenes((0, 16), n=2), strengths=(1, 2), gallery=1)
    assert found["stays_found_rounding"].value == found["ap50_rounding"].value == 0
    assert found["stays_found_placement"].value == 1
    others = len(DISTORTIONS) - 1
    assert found["found_rate@1"].value == found["found_rate"].value == pytest.approx(others / len(DISTORTIONS))
    (exhibit,) = findings.exhibits
    assert exhibit.caption == "1 of 1 objects are lost: rounding of strength 1"
    assert [each.tone for each in exhibit.panels[1].marks] == ["lost"]


def test_strengths_share_their_draws_and_draws_do_not(monkeypatch):
    seen = {}

    def spy(name):
        def distortion(images, strength, rng, step):
            seen[name, strength, step] = rng.keys
            return images

        return distortion

    monkeypatch.setattr(module, "DISTORTIONS", {name: spy(name) for name in DISTORTIONS})
    findings, _ = seen_by_camera(scenes((0, 0), n=2), strengths=(1, 3), draws=2)
    assert torch.equal(seen["blur", 1, 0], seen["blur", 3, 0])
    assert not (seen["blur", 1, 0] == seen["lens", 1, 0]).any()
    assert {step for name, _, step in seen if name == "jpeg"} == {0}
    assert {step for name, _, step in seen if name == "lens"} == {0, 1}
    assert (findings.forwards == 1 + 2 * (2 * len(RANDOM) + len(DISTORTIONS) - len(RANDOM))).all()


def test_images_without_objects_and_crowds_count_neither_for_nor_against():
    for samples in (scenes(n=2), scenes((16, 16), n=2, crowd=True)):
        findings, found = seen_by_camera(samples, strengths=(3,))
        assert not found
        assert not findings.exhibits


def test_grey_images_are_seen_too():
    _, found = seen_by_camera(scenes((16, 16), n=2, channels=1), Grey(), strengths=(1,))
    assert found["clean_ap50"].value == found["stays_found_rounding"].value == 1


def test_a_real_detector_still_finds_most_objects_after_rounding():
    detector, samples = fastest_detector(4)
    check = DetectorSurvival(strengths=(3,), gallery=1)
    findings = run_check(check, detector, samples)
    found, _ = metrics(check.spec, findings.columns, matches=findings.matches)
    assert found["stays_found_rounding"].value > 0.9
    assert found["stays_found_photograph"].value < found["stays_found_rounding"].value
