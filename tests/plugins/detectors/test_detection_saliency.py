"""Saliency of detections: maps and shares worked out by hand, and the chance level of a box put anywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toy_detectors import BRIGHT, SIDE, STRIDE, SquareDetector, toy_scenes

from auditkit import Capability
from auditkit.findings import metrics
from auditkit.samples import Objects, Samples
from auditkit.testing import assert_contract, run_check, toy_detector
from auditkit_plugins.detectors.boxed_share import boxed_share
from auditkit_plugins.detectors.saliency import DetectionSaliency, detection_maps

SIZE = 48


def scene(*squares, annotated=None, n=1, crowd=False):
    """Return n black scenes with squares: left and top in pixels, and the colour."""
    images = torch.zeros(n, 3, SIZE, SIZE)
    for left, top, colour in squares:
        images[:, colour, top : top + SIDE, left : left + SIDE] = BRIGHT
    annotated = squares if annotated is None else annotated
    boxes = [[left / SIZE, top / SIZE, (left + SIDE) / SIZE, (top + SIDE) / SIZE] for left, top, _ in annotated]
    objects = Objects(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor([colour for _, _, colour in annotated], dtype=torch.int64),
        torch.full((len(annotated),), crowd),
        (SIZE, SIZE),
    )
    labels = torch.zeros(n, dtype=torch.int64)
    return Samples(images, labels, tuple(f"scene {row}" for row in range(n)), objects=(objects,) * n)


def look(samples, network=None, **options):
    check = DetectionSaliency(**options)
    findings = run_check(check, toy_detector(network or SquareDetector(), samples), samples)
    return findings, metrics(check.spec, findings.columns, matches=findings.matches)[0]


@pytest.mark.parametrize("colour", [0, 1])
def test_each_of_two_squares_of_a_colour_has_a_map_of_its_own(colour):
    """Also the less sure one, and there is none for a box in which nothing is considered."""
    samples = scene((0, 0, colour), (32, 32, colour))
    samples.images[:, colour, 32:, 32:] = 0.8
    detector = toy_detector(SquareDetector(), samples)
    own = samples.objects[0]
    for at, (rows, columns) in enumerate([(slice(SIDE), slice(SIDE)), (slice(32, SIZE), slice(32, SIZE))]):
        heat = detection_maps(detector.exact, samples.images, own.boxes[at : at + 1], own.classes[at : at + 1])[0]
        inside = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        inside[rows, columns] = True
        assert torch.equal(heat > 0, inside)
    speck = torch.tensor([[0.0, 0.0, 0.1, 0.1]])
    assert not detection_maps(detector.exact, samples.images, speck, own.classes[:1]).any()


def overlap_anywhere(start):
    """Return the mean share of a square's side that one put at each place of a row has in common with it."""
    return np.mean([max(0, SIDE - abs(at - start)) / SIDE for at in range(SIZE - SIDE + 1)])


@pytest.mark.parametrize("left", [0, 8, 16])
def test_the_map_of_a_square_is_flat_on_it_and_zero_beside_it(left):
    samples = scene((left, 16, 2))
    detector = toy_detector(SquareDetector(), samples)
    own = samples.objects[0]
    heat = detection_maps(detector.exact, samples.images, own.boxes, own.classes)[0]
    odds = np.exp(-12 * (BRIGHT - 0.6))
    slope = 12 * odds / (1 + odds) ** 2 / SIDE**2
    wanted = torch.zeros(SIZE, SIZE)
    wanted[16 : 16 + SIDE, left : left + SIDE] = slope
    assert torch.allclose(heat, wanted, rtol=1e-4, atol=0)


@pytest.mark.parametrize(("left", "top"), [(0, 0), (8, 16), (32, 24)])
def test_all_of_a_squares_map_lies_in_its_box(left, top):
    findings, found = look(scene((left, top, 0)))
    assert found["inside_share"].value == pytest.approx(1)
    assert found["box_share"].value == pytest.approx(1 / 9)
    assert found["concentration"].value == pytest.approx(9)
    assert found["anywhere_share"].value == pytest.approx(overlap_anywhere(left) * overlap_anywhere(top))
    assert found["pointing"].value == found["responds"].value == 1
    assert findings.columns["seen"].tolist() == [1]


class Aside(nn.Module):
    """Finds a square by a strip of 4 pixels of its window, and by as much contrast of one 8 pixels to the right."""

    def __init__(self):
        super().__init__()
        self.inner = SquareDetector()

    def forward(self, images):
        return self.inner(0.5 * images + 0.5 * images.roll(-STRIDE, 3).detach() + 0.5 * _passing(images))


def _passing(images):
    """Return zeros that pass the gradient of the image 8 pixels to the right."""
    moved = images.roll(-STRIDE, 3)
    return moved - moved.detach()


def test_what_lies_beside_the_box_is_told():
    """Half of the gradient is that of the window, half that of the window 8 pixels to the right."""
    samples = scene((0, 16, 1), (8, 16, 1), annotated=[(0, 16, 1)])
    findings, found = look(samples, Aside(), most=1)
    assert findings.columns["seen"].tolist() == [1]
    # The window's own half, and the half of the other one that lies in it.
    assert found["inside_share"].value == pytest.approx(0.75, rel=1e-5)
    assert found["concentration"].value == pytest.approx(0.75 * 9, rel=1e-5)


def test_only_the_surest_detections_are_looked_at():
    samples = scene((0, 0, 0), (32, 0, 1), (0, 32, 2))
    for most, seen in ((1, 1), (2, 2), (3, 3), (9, 3)):
        findings, _ = look(samples, most=most)
        assert findings.columns["seen"].tolist() == findings.columns["responding"].tolist() == [seen]
        assert len(findings.exhibits) == 1  # the gallery shows an image once
        assert findings.forwards.tolist() == [1 + seen]
        assert findings.backwards.tolist() == [seen]


def test_the_check_keeps_the_contract():
    assert_contract(DetectionSaliency, network=SquareDetector(), samples=toy_scenes(11, seed=3))
    assert_contract(DetectionSaliency(most=1, gallery=2), network=SquareDetector(), samples=toy_scenes(5, seed=4))


def test_an_image_without_a_detection_counts_for_nothing():
    dark, lit = scene(n=2), scene((16, 16, 1))
    ids = (*dark.ids, "lit")
    labels = torch.zeros(3, dtype=torch.int64)
    images = torch.cat([dark.images, lit.images])
    samples = Samples(images, labels, ids, objects=(*dark.objects, *lit.objects))
    findings, found = look(samples)
    assert findings.columns["mapped"].tolist() == [False, False, True]
    assert np.isnan(findings.columns["inside_share"]).tolist() == [True, True, False]
    assert found["inside_share"].n == 1
    assert [exhibit.sample for exhibit in findings.exhibits] == ["lit"]


def test_without_any_detection_there_is_no_metric():
    findings, found = look(scene(n=3))
    assert not found
    assert not findings.exhibits


def test_a_detection_in_a_crowd_or_on_nothing_is_looked_at_as_any_other():
    """What is explained is what the detector reports, right or wrong."""
    for samples in (scene((16, 16, 0), crowd=True), scene((16, 16, 0), annotated=())):
        _, found = look(samples)
        assert found["inside_share"].value == pytest.approx(1)


class Deaf(nn.Module):
    """Reports the same whatever is there, though its gradient can be had."""

    def __init__(self):
        super().__init__()
        self.inner = SquareDetector()

    def forward(self, images):
        bright = torch.zeros_like(images)
        bright[:, 0, :SIDE, :SIDE] = BRIGHT
        return self.inner(0 * images + bright)


def test_a_detector_without_a_gradient_does_not_respond():
    findings, found = look(scene(n=2), Deaf())
    assert found["responds"].value == 0
    assert "inside_share" not in found
    assert "its map is zero" in findings.exhibits[0].caption


class OneColour(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = SquareDetector()

    def forward(self, images):
        found = self.inner(images)
        return {"boxes": found["boxes"], "scores": found["scores"][..., :1]}


def test_a_detector_of_one_class_is_explained_as_any_other():
    _, found = look(scene((16, 16, 0)), OneColour())
    assert found["inside_share"].value == pytest.approx(1)


def test_wrong_detections_are_shown_first_with_their_box():
    right, wrong = scene((16, 16, 1)), scene((16, 16, 0), annotated=[(16, 16, 2)])
    labels = torch.zeros(2, dtype=torch.int64)
    images = torch.cat([right.images, wrong.images])
    samples = Samples(images, labels, ("a", "b"), objects=(*right.objects, *wrong.objects))
    findings, _ = look(samples)
    assert [exhibit.sample for exhibit in findings.exhibits] == ["b", "a"]
    plain, overlay = findings.exhibits[0].panels
    assert [mark.tone for mark in plain.marks] == ["wrong"]
    assert overlay.array[..., -1].max() > 0
    assert "100% of its map on 11% of the image" in findings.exhibits[0].caption
    assert len(look(samples, gallery=1)[0].exhibits) == 1


@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 10_000),
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
def test_the_shares_are_those_of_pixels_whose_centres_lie_in_the_box(height, width, seed, corners):
    heat = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    left, right = sorted(corners[:2])
    top, bottom = sorted(corners[2:])
    across = np.array([left * width <= at + 0.5 < right * width for at in range(width)])
    down = np.array([top * height <= at + 0.5 < bottom * height for at in range(height)])
    inside = down[:, None] & across[None]
    share = boxed_share(heat, (left, top, right, bottom))
    if not inside.any():
        assert share is None
        return
    high, wide = int(down.sum()), int(across.sum())
    total = heat.sum(dtype=np.float64)
    places = [(y, x) for y in range(height - high + 1) for x in range(width - wide + 1)]
    anywhere = np.mean([heat[y : y + high, x : x + wide].sum(dtype=np.float64) for y, x in places]) / total
    assert share.inside == pytest.approx(heat[inside].sum(dtype=np.float64) / total)
    assert share.anywhere == pytest.approx(anywhere)
    assert share.area == pytest.approx(inside.mean())
    assert share.points == inside[np.unravel_index(heat.argmax(), heat.shape)]


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_a_map_without_a_finite_sum_has_no_shares(value):
    assert boxed_share(np.full((4, 4), value, dtype=np.float32), (0, 0, 1, 1)) is None


def test_on_a_flat_map_a_box_holds_what_it_would_hold_anywhere():
    share = boxed_share(np.ones((8, 12), dtype=np.float32), (0.25, 0.25, 0.75, 0.5))
    assert share.inside == share.anywhere == share.area == pytest.approx(1 / 8)


def test_it_is_only_run_where_there_are_gradients():
    assert Capability.GRADIENTS in DetectionSaliency.spec.needs
