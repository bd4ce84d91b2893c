"""What covers change for a detector, worked out by hand; patches made for one image; and the alarm's promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fastest_detector import fastest_detector
from toy_detectors import BRIGHT, SIDE, SquareDetector, toy_scenes

from auditkit.artifacts import Shelf
from auditkit.context import Context
from auditkit.covers import Windows
from auditkit.errors import ExecutionError
from auditkit.findings import metrics
from auditkit.samples import Objects, Samples
from auditkit.testing import assert_contract, run_check, run_learn, toy_detector
from auditkit_plugins.detectors.cover_changes import cover_changes
from auditkit_plugins.detectors.image_patches import PATCHES, patched
from auditkit_plugins.detectors.sticker_covers import DetectStickersOnObjects

SIZE = 48


def sure(own):
    """The score of a window whose colour sticks out by so much."""
    return float(torch.sigmoid(torch.tensor(12 * (own - 0.6))))


def scene(*boxes):
    """A black scene with squares of the first colour, whose left and top in pixels are given."""
    images = torch.zeros(1, 3, SIZE, SIZE)
    for left, top in boxes:
        images[:, 0, top : top + SIDE, left : left + SIDE] = BRIGHT
    corners = [[left / SIZE, top / SIZE, (left + SIDE) / SIZE, (top + SIDE) / SIZE] for left, top in boxes]
    n = len(boxes)
    objects = Objects(
        torch.tensor(corners).reshape(-1, 4), torch.zeros(n, dtype=torch.int64), torch.zeros(n) > 0, (SIZE, SIZE)
    )
    return Samples(images, torch.zeros(1, dtype=torch.int64), ("scene",), objects=(objects,))


def context(detector, samples, search=True):
    return Context("detect.stickers", 0, 32, Shelf(detector, samples), detector.exact if search else None)


def changes(samples, windows, hidden=0.75, fill="black"):
    return cover_changes(toy_detector(SquareDetector(), samples), samples.images, windows, fill, hidden)


def test_a_cover_on_a_part_of_an_object_takes_its_part_of_the_score():
    # Windows of 8 pixels: one on a quarter of the square leaves three quarters of its light.
    found = changes(scene((16, 16)), Windows.grid(SIZE, SIZE, (8, 8), (8, 8)))
    vanishes = found.vanishes.view(6, 6)
    assert vanishes[2, 2] == pytest.approx(sure(0.9) - sure(0.675), abs=1e-5)
    assert vanishes[0, 0] == 0
    assert found.appears.max() == 0
    assert torch.equal(found.strongest, found.vanishes)


def test_an_object_that_a_cover_hides_is_no_surprise():
    windows = Windows.grid(SIZE, SIZE, (SIDE, SIDE), (SIDE, SIDE))
    # The candidates half beside the square, of which the cover hides half, are left to fall.
    vanishes = changes(scene((16, 16)), windows).vanishes
    assert vanishes.view(3, 3)[1, 1] == pytest.approx(sure(0.45), abs=1e-5)
    vanishes = changes(scene((16, 16)), windows, hidden=1.0).vanishes
    assert vanishes.view(3, 3)[1, 1] == pytest.approx(sure(0.9), abs=1e-5)


def test_an_object_that_comes_back_under_a_cover_appears():
    samples = scene((16, 16))
    # Other colours on a quarter of the square silence it; black there leaves three quarters of it.
    samples.images[:, 1:, 16:24, 16:24] = 1.0
    samples.images[:, 0, 16:24, 16:24] = 0.0
    found = changes(samples, Windows.grid(SIZE, SIZE, (8, 8), (8, 8)))
    silenced = 0.75 * BRIGHT - 0.25
    appears = found.appears.view(6, 6)
    assert int(found.appears.argmax()) == 2 * 6 + 2
    assert appears[2, 2] == pytest.approx(sure(0.675) - (sure(silenced) if sure(silenced) > 0.01 else 0), abs=1e-5)


def test_no_images_have_no_changes():
    samples = scene((0, 0))
    empty = samples.take([])
    detector = toy_detector(SquareDetector(), samples)
    windows = Windows.grid(SIZE, SIZE, (8, 8), (8, 8))
    assert cover_changes(detector, empty.images, windows, "mean", 0.5).strongest.shape == (0, 36)


@pytest.mark.parametrize("search", [True, False])
def test_a_patch_changes_its_own_pixels_only_and_the_object_is_gone(search):
    samples = toy_scenes(4)
    detector = toy_detector(SquareDetector(), samples)
    made = patched("vanish", detector, samples, 0.5, 20, context(detector, samples, search))
    assert len(made.rows) > 0
    outside = (made.images != samples.images[made.rows]).any(1) & ~made.where
    assert not outside.any()
    # Half of a square of 16 pixels at most.
    assert int(made.where.flatten(1).sum(1).max()) <= 128
    assert (made.backwards > 0).any() == search
    assert (made.forwards.max() == 1 + 20) == search


@pytest.mark.parametrize("kind", PATCHES)
def test_a_patch_is_the_same_whatever_its_neighbours(kind):
    samples = toy_scenes(3)
    detector = toy_detector(SquareDetector(), samples)
    for search in (True, False):
        together = patched(kind, detector, samples, 0.5, 4, context(detector, samples, search))
        rows = together.rows.tolist()
        for row in range(len(samples)):
            one = samples.take([row])
            alone = patched(kind, detector, one, 0.5, 4, context(detector, one, search))
            assert (row in rows) == bool(len(alone.rows))
            if row in rows:
                assert torch.equal(alone.images[0], together.images[rows.index(row)])


def test_the_check_keeps_the_contract():
    check = DetectStickersOnObjects(grid=2, steps=1, area=0.6, false_alarms=0.25)
    assert_contract(check, network=SquareDetector(), samples=toy_scenes(6))


def test_the_alarm_keeps_its_promise_and_the_columns_fit():
    samples = toy_scenes(40)
    detector = toy_detector(SquareDetector(), samples)
    check = DetectStickersOnObjects(grid=3, steps=12, area=0.6, false_alarms=0.1)
    lesson = run_learn(check, detector, samples.take(range(20)))
    judged = samples.take(range(20, 40))
    findings = run_check(check, detector, judged, lesson=lesson)
    found, _ = metrics(check.spec, findings.columns)
    assert int(lesson["calibrated_on"]) == 20
    assert found["false_alarm_rate"].value <= 0.25
    assert found["vanish_succeeds"].value > 0
    fooled = findings.columns["vanish_succeeds"]
    assert (np.isnan(findings.columns["vanish_score"]) == ~fooled).all()
    assert (findings.columns["vanish_score"][fooled] > lesson["threshold"]).tolist() == findings.columns[
        "vanish_alarm"
    ][fooled].tolist()
    assert 0 <= found["vanish_points_by_chance"].value <= 1


def test_too_few_images_for_the_promise_are_refused_in_one_line():
    samples = toy_scenes(4)
    check = DetectStickersOnObjects(grid=3)
    with pytest.raises(ExecutionError, match=r"at most 10\.00% false alarms needs 9 clean images"):
        run_learn(check, toy_detector(SquareDetector(), samples), samples)


def test_images_in_which_nothing_is_found_have_no_patch_and_no_sticker():
    one, labels = scene(), torch.zeros(3, dtype=torch.int64)
    samples = Samples(one.images.repeat(3, 1, 1, 1), labels, ("a", "b", "c"), objects=one.objects * 3)
    check = DetectStickersOnObjects(grid=3, steps=2)
    findings = run_check(check, toy_detector(SquareDetector(), samples), samples, lesson={"threshold": np.array(0.5)})
    assert not findings.columns["vanish_succeeds"].any()
    assert not findings.columns["harmless_worn"].any()
    assert not findings.columns["clean_alarm"].any()


def test_covers_change_what_a_real_detector_says():
    detector, samples = fastest_detector(2)
    windows = Windows.grid(352, 352, (176, 176), (176, 176))
    found = cover_changes(detector, samples.images, windows, "mean", 0.75)
    assert found.strongest.shape == (2, 4)
    assert (found.strongest > 0).all()
    assert (found.strongest <= 1).all()
