"""PGD on detectors: thresholds worked out by hand, budgets, false detections, and a real network."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toy_detectors import BRIGHT, SIDE, SquareDetector, toy_scenes

from auditkit import Capability
from auditkit.artifacts import Shelf
from auditkit.config import settings_from
from auditkit.context import Context
from auditkit.findings import metrics
from auditkit.models.loaded import digest_state
from auditkit.objects.detections import Detections
from auditkit.preparing import set_up
from auditkit.samples import Objects, Samples
from auditkit.testing import assert_contract, run_check, toy_detector
from auditkit.threat import allowed
from auditkit.workbench import Recipe
from auditkit_plugins.detectors.flooding import false_detections, not_yet_false
from auditkit_plugins.detectors.noise_pgd import DetectorPGD
from auditkit_plugins.detectors.sign_steps import random_signs, sign_steps

COCO = Path(__file__).resolve().parents[4] / "shared" / "data" / "coco"
SIZE = 48
# The score is sigmoid(12 (own - others - 0.6)); 0.3 counts as found.
FOUND_FROM = 0.6 + math.log(0.3 / 0.7) / 12


def scenes(*boxes, colour=1, n=1, crowd=False):
    """Return n black scenes with squares of one colour, whose left and top in pixels are given."""
    images = torch.zeros(n, 3, SIZE, SIZE)
    for left, top in boxes:
        images[:, colour, top : top + SIDE, left : left + SIDE] = BRIGHT
    corners = [[left / SIZE, top / SIZE, (left + SIDE) / SIZE, (top + SIDE) / SIZE] for left, top in boxes]
    objects = Objects(
        torch.tensor(corners).reshape(-1, 4),
        torch.full((len(boxes),), colour),
        torch.full((len(boxes),), crowd),
        (SIZE, SIZE),
    )
    labels = torch.zeros(n, dtype=torch.int64)
    return Samples(images, labels, tuple(f"scene {row}" for row in range(n)), objects=(objects,) * n)


def attack(samples, network=None, **options):
    check = DetectorPGD(**options)
    findings = run_check(check, toy_detector(network or SquareDetector(), samples), samples)
    return findings, metrics(check.spec, findings.columns, matches=findings.matches)[0]


@pytest.mark.parametrize("colour", [0, 1, 2])
@pytest.mark.parametrize(("eps", "vanishes"), [(0.17, False), (0.18, False), (0.19, True), (0.2, True)])
def test_a_square_vanishes_from_the_budget_on_at_which_its_score_must_fall_below_what_counts(eps, vanishes, colour):
    """Its own colour can fall by eps and the others rise by eps, so its contrast falls by twice that and no more."""
    assert vanishes == (BRIGHT - 2 * eps < FOUND_FROM)
    findings, found = attack(scenes((16, 8), colour=colour), eps=(eps,))
    assert findings.columns["found"].tolist() == [1]
    assert findings.columns[f"vanished_by_attacked@{eps}"].tolist() == [int(vanishes)]
    assert found["vanish_rate"].value == vanishes
    assert findings.columns[f"vanished_by_noise@{eps}"].tolist() == [0]
    scores = findings.matches[f"by_attacked@{eps}"].score
    assert scores.max() == pytest.approx(1 / (1 + math.exp(-12 * (BRIGHT - 2 * eps - 0.6))), abs=1e-5)


def test_only_what_counts_as_found_is_attacked():
    """A faint square, of score 0.23, is left where the search started; the bright one falls by the whole budget."""
    samples = scenes((0, 0), (32, 32))
    samples.images[:, 1, 32:, 32:] = 0.5
    detector = toy_detector(SquareDetector(), samples)
    ctx = Context("noise.pgd", 0, 32, Shelf(detector, samples), detector.exact)
    attacked = DetectorPGD()._attacked(detector, samples, 0.1, ctx)
    moved = (attacked - samples.images)[0, 1]
    assert torch.allclose(moved[:SIDE, :SIDE], torch.tensor(-0.1), atol=1e-6)
    assert moved[32:, 32:].mean().abs() < 0.02


def test_what_is_lost_when_the_image_is_stored_with_8_bits_is_told():
    """At 47.277 grey levels the contrast falls to 134.947 levels, which is too little; stored it is 135, enough."""
    findings, found = attack(scenes((16, 8)), eps=(0.1854,))
    assert findings.columns["vanished_by_attacked@0.1854"].tolist() == [1]
    assert findings.columns["found_again@0.1854"].tolist() == [1]
    assert found["lost_to_rounding"].value == 1
    _, found = attack(scenes((16, 8)), eps=(0.2,))
    assert found["lost_to_rounding"].value == 0


@pytest.mark.parametrize("goal", ["vanish", "flood"])
def test_the_check_keeps_the_contract(goal):
    options = {"eps": "0.05, 0.6", "steps": 2, "goal": goal}
    assert_contract(DetectorPGD, options=options, network=SquareDetector(), samples=toy_scenes(7, seed=2))


@settings(max_examples=25)
@given(
    eps=st.floats(1e-3, 1),
    steps=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    flood=st.booleans(),
)
def test_no_pixel_leaves_its_budget_or_the_range_of_colours(eps, steps, seed, flood):
    samples = toy_scenes(2, seed=seed, size=48)
    detector = toy_detector(SquareDetector(), samples)
    ctx = Context("noise.pgd", seed, 32, Shelf(detector, samples), detector.exact)
    check = DetectorPGD(eps=(eps,), steps=steps, goal="flood" if flood else "vanish")
    attacked = check._attacked(detector, samples, eps, ctx)
    noise = random_signs(samples.images, samples.ids, eps, ctx)
    assert allowed("linf", eps, samples.images, attacked).all()
    assert allowed("linf", eps, samples.images, noise).all()
    assert not torch.equal(attacked, samples.images)


def test_random_signs_move_every_value_by_the_whole_budget():
    samples = scenes(n=4)
    samples = Samples(samples.images + 0.5, samples.labels, samples.ids, objects=samples.objects)
    ctx = Context("noise.pgd", 0, 32, Shelf(toy_detector(SquareDetector(), samples), samples), None)
    moved = random_signs(samples.images, samples.ids, 0.25, ctx) - samples.images
    assert moved.abs().unique().tolist() == [0.25]
    assert moved.mean().abs() < 0.01
    assert not torch.equal(moved[0], moved[1])


def test_the_search_starts_at_a_random_point_that_only_the_sample_decides():
    samples = scenes((0, 0), n=3)
    detector = toy_detector(SquareDetector(), samples)
    ctx = Context("noise.pgd", 0, 32, Shelf(detector, samples), detector.exact)
    silent = lambda packed: 0 * packed.sum((1, 2))  # noqa: E731
    ended = sign_steps(detector.exact, samples.images, samples.ids, 0.1, 3, silent, (), ctx)
    moved = (ended - samples.images)[:, 0]  # from black: half of the values are cut off
    assert not torch.equal(moved[0], moved[1])
    assert 0.4 < (moved > 0).float().mean() < 0.6
    again = sign_steps(detector.exact, samples.images[2:], samples.ids[2:], 0.1, 3, silent, (), ctx)
    assert torch.equal(again, ended[2:])


class Scripted:
    """Gives the gradients of a list, one a step, whatever it is asked about."""

    def __init__(self, gradients):
        self.gradients = iter(gradients)

    def gradient(self, images, loss, *aligned):
        return None, next(self.gradients)


def test_steps_follow_the_gradients_so_far_each_weighed_by_its_own_images_largest():
    """The second gradient turns the first pixel back, not the other one; how long they are does not matter."""
    first, second = torch.tensor([1.0, 0.2]).view(1, 1, 1, 2), torch.tensor([-1.0, -0.05]).view(1, 1, 1, 2)
    script = [torch.cat([first, 1000 * first]), torch.cat([1000 * second, second])]
    images, ids = torch.full((2, 1, 1, 2), 0.5), ("a", "b")
    ctx = Context("noise.pgd", 0, 32, Shelf(toy_detector(SquareDetector(), scenes()), scenes()), None)
    ended = sign_steps(Scripted(script), images, ids, 0.1, 2, None, (), ctx)
    start = 0.5 + 0.1 * (2 * ctx.streams(ids, "start").uniform(0, (1, 1, 2)) - 1)
    once = (start - 0.1 * 1.02).clamp(0.4, 0.6)
    wanted = (once + 0.1 * 0.27 * torch.tensor([1.0, -1.0])).clamp(0.4, 0.6)
    assert torch.allclose(ended, wanted, atol=1e-6)
    assert not torch.allclose(once, torch.full_like(once, 0.4))


def test_a_crowd_is_no_object_that_could_vanish_and_no_false_detection_either():
    findings, found = attack(scenes((16, 8), crowd=True), eps=(0.2,))
    assert findings.columns["found"].tolist() == [0]
    assert findings.columns["false_clean"].tolist() == [0]
    assert "vanish_rate" not in found
    assert "ap50" not in found


@pytest.mark.parametrize("goal", ["vanish", "flood"])
def test_images_without_objects_have_nothing_to_lose(goal):
    findings, found = attack(scenes(n=3), eps=(0.2,), steps=2, goal=goal)
    assert findings.columns["found"].tolist() == [0, 0, 0]
    assert {name.partition("@")[0] for name in found} == {
        "clean_false_detections",
        "false_detections",
        "noise_false_detections",
    }
    assert not findings.exhibits


def test_an_object_that_was_never_found_does_not_count_as_vanished():
    samples = scenes((16, 8))
    hidden = Samples(torch.zeros_like(samples.images), samples.labels, samples.ids, objects=samples.objects)
    findings, found = attack(hidden, eps=(0.2,), steps=2)
    assert findings.columns["vanished_by_attacked@0.2"].tolist() == [0]
    assert found["clean_ap50"].value == 0


class OneColour(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = SquareDetector()

    def forward(self, images):
        found = self.inner(images)
        return {"boxes": found["boxes"], "scores": found["scores"][..., :1]}


def test_a_detector_of_one_class_is_attacked_as_any_other():
    samples = scenes((16, 8), colour=0)
    for eps, vanishes in ((0.17, 0), (0.2, 1)):
        findings, _ = attack(samples, OneColour(), eps=(eps,))
        assert findings.columns[f"vanished_by_attacked@{eps}"].tolist() == [vanishes]


def test_flooding_needs_the_contrast_that_counts_as_an_object():
    """On black a window's contrast can rise to eps, no more: from 0.53 on something is seen that is not there."""
    below, _ = attack(scenes(n=2), eps=(0.52,), goal="flood")
    beyond, found = attack(scenes(n=2), eps=(0.8,), goal="flood")
    assert below.columns["false_attacked@0.52"].tolist() == [0, 0]
    assert (beyond.columns["false_attacked@0.8"] >= 3).all()
    assert beyond.columns["false_noise@0.8"].tolist() == [0, 0]
    assert found["false_detections"].value >= 3
    assert {exhibit.sample for exhibit in beyond.exhibits} == {"scene 0", "scene 1"}


def test_flooding_leaves_what_lies_on_an_object_alone():
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 0.5]]])
    packed = torch.tensor(
        [[[0.0, 0.0, 0.5, 0.5, 0.1], [0.0, 0.0, 0.5, 0.4, 0.2], [0.5, 0.5, 1, 1, 0.3], [0, 0.5, 1, 1, 0.99]]]
    )
    used, classes = torch.tensor([[True]]), torch.tensor([[0]])
    wanted = (math.log(0.95) - math.log(0.3)) / 4
    assert not_yet_false(packed, boxes, classes, used).item() == pytest.approx(wanted, rel=1e-6)
    wanted += (2 * math.log(0.95) - math.log(0.1) - math.log(0.2)) / 4
    assert not_yet_false(packed, boxes, classes, ~used).item() == pytest.approx(wanted, rel=1e-6)


def test_a_detection_is_false_unless_an_object_or_a_crowd_of_its_class_explains_it():
    seen = [
        ([0, 0, 0.5, 0.5], 0, 0.9, "it is the object"),
        ([0, 0, 0.5, 0.3], 0, 0.9, "it is 0.6 of the object"),
        ([0.6, 0.6, 0.7, 0.7], 2, 0.9, "it lies in the crowd"),
        ([0, 0, 0.5, 0.5], 0, 0.2, "it is not sure enough"),
        ([0, 0, 0.5, 0.2], 0, 0.9, "false: 0.4 of the object"),
        ([0, 0, 0.5, 0.5], 1, 0.9, "false: another class"),
        ([0.4, 0.6, 0.55, 0.7], 2, 0.9, "false: a third of it lies in the crowd"),
        ([0.25, 0.5, 0.73, 1], 2, 0.9, "false: 0.48 of it lies in the crowd, 0.31 of both together"),
        ([0.05, 0.05, 0.15, 0.15], 0, 0.9, "false: it lies in the object, which is no crowd"),
        ([0, 0.9, 0.1, 1], 0, 0.3, "false, and just sure enough"),
    ]
    boxes, classes, scores = (torch.tensor([[each[part] for each in seen]]) for part in range(3))
    objects = Objects(
        torch.tensor([[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1]]),
        torch.tensor([0, 2]),
        torch.tensor([False, True]),
        (100, 100),
    )
    found = Detections(boxes, scores, classes)
    assert false_detections(found, (objects,), 0.3).tolist() == [6]
    assert false_detections(found, (objects,), 0.9).tolist() == [5]


def test_exhibits_show_what_was_lost():
    findings, _ = attack(scenes((16, 8), n=2), eps=(0.1, 0.2))
    assert [(exhibit.sample, exhibit.score) for exhibit in findings.exhibits] == [("scene 0", 1), ("scene 1", 1)]
    clean, attacked, difference = findings.exhibits[0].panels
    assert [mark.tone for mark in clean.marks] == ["found"]
    assert [mark.tone for mark in attacked.marks] == ["lost"]
    assert np.abs(difference.array).max() == pytest.approx(0.2, abs=1e-6)


def test_passes_are_those_of_every_budget():
    findings, _ = attack(scenes((16, 8), n=2), eps=(0.1, 0.2), steps=4)
    assert findings.forwards.tolist() == [1 + 2 * (4 + 3)] * 2
    assert findings.backwards.tolist() == [2 * 4] * 2


def test_it_is_only_run_where_there_are_gradients():
    assert Capability.GRADIENTS in DetectorPGD.spec.needs


@pytest.mark.skipif(not COCO.is_dir(), reason=f"NO REAL DETECTOR: {COCO} is absent")
def test_a_real_detector_is_blinded_and_stays_what_it_was():
    chosen = settings_from(
        {
            "weights": COCO / "fastestdet.safetensors",
            "boxes": COCO / "annotations.json",
            "resize": (352, 352),
            "decode": f"{COCO.parent / 'models.py'}:decode_detections",
            "device": "cpu",
            "precision": "float32",
            "batch": 4,
            "shard": 4,
        }
    )
    bench = set_up(Recipe(f"{COCO.parent / 'models.py'}:fastestdet_rgb", str(COCO / "images"), chosen))
    samples = bench.read(0, 4).samples
    networks = [bench.loaded.network, bench.model.exact.network, bench.search.network]
    before = [digest_state(network) for network in networks]
    check = DetectorPGD(eps=(8 / 255,), steps=2)
    findings = run_check(check, bench.model, samples, batch=4, search=bench.search)
    found = metrics(check.spec, findings.columns, matches=findings.matches)[0]
    assert [digest_state(network) for network in networks] == before
    assert found["ap50"].value < found["noise_ap50"].value < found["clean_ap50"].value + 0.1
    assert found["ap50"].value < 0.3 * found["clean_ap50"].value
    assert found["vanish_rate"].value > 0.5 > found["noise_vanish_rate"].value
