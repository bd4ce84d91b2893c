"""Boxes go where the pixels in them go, and what left the picture is not asked for."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auditkit import Objects, Streams
from auditkit_plugins.camera import DISTORTIONS as CAMERA
from auditkit_plugins.camera import STRENGTHS, shots
from auditkit_plugins.camera.geometry import pixels, placed, seen
from auditkit_plugins.camera.sightlines import sightlines
from auditkit_plugins.detectors.carrying import Sources, carry, identity, stay, traced
from auditkit_plugins.detectors.corruptions import CARRIED, LEFT_OUT
from auditkit_plugins.distortions import DISTORTIONS
from auditkit_plugins.distortions.filters import zoom

HEIGHT, WIDTH = 40, 60
MOVING = ("lens", "perspective", "placement", "photograph")


def blank(n=1, height=HEIGHT, width=WIDTH):
    return torch.zeros(n, 3, height, width)


def objects(*boxes, crowd=(), size=(HEIGHT, WIDTH)):
    """Objects whose boxes are given in pixels: left, top, right, bottom."""
    height, width = size
    shares = torch.tensor(boxes, dtype=torch.float32).view(-1, 4) / torch.tensor([width, height, width, height])
    many = torch.zeros(len(boxes), dtype=torch.bool)
    many[list(crowd)] = True
    return Objects(shares, torch.arange(len(boxes)), many, size)


def in_pixels(carried, height=HEIGHT, width=WIDTH):
    return (carried.objects.boxes * torch.tensor([width, height, width, height])).round(decimals=3).tolist()


def moved(turn=0.0, down=0.0, right=0.0, factor=1.0, height=HEIGHT, width=WIDTH):
    """The sources of one image that is turned, shifted by pixels and enlarged."""
    points = placed(pixels(blank(1, height, width)), *(torch.tensor([value]) for value in (turn, down, right, factor)))
    return Sources(points[0] / height + 0.5, points[1] / width + 0.5)


def test_a_box_moves_with_a_shift():
    (carried,) = carry([objects((10, 12, 20, 30))], moved(down=4, right=-7))
    assert in_pixels(carried) == [[3, 16, 13, 34]]
    assert carried.in_view.tolist() == [True]
    assert not carried.objects.crowd.any()


def test_a_box_grows_with_an_enlargement_about_the_middle():
    (carried,) = carry([objects((20, 10, 40, 25))], moved(factor=2.0))
    # (x - 30) * 2 + 30, and the same about 20 downwards; cut off at the edges.
    assert in_pixels(carried) == [[10, 0, 50, 30]]


def test_a_box_turns_by_a_quarter():
    (carried,) = carry([objects((12, 8, 20, 30), size=(40, 40))], moved(turn=math.pi / 2, height=40, width=40))
    # Counter-clockwise: what is at (x, y) goes to (y, 40 - x).
    assert in_pixels(carried, 40, 40) == [[8, 20, 30, 28]]


@given(
    st.integers(-30, 30),
    st.integers(-20, 20),
    st.integers(0, 55),
    st.integers(0, 35),
    st.integers(1, 60),
    st.integers(1, 40),
)
def test_a_shift_keeps_just_what_stays_inside(right, down, left, top, wide, high):
    far, low = min(left + wide, WIDTH), min(top + high, HEIGHT)
    (carried,) = carry([objects((left, top, far, low))], moved(down=down, right=right))
    kept = [max(left + right, 0), max(top + down, 0), min(far + right, WIDTH), min(low + down, HEIGHT)]
    area = max(kept[2] - kept[0], 0) * max(kept[3] - kept[1], 0)
    assert in_pixels(carried) == ([kept] if area else [])
    assert carried.in_view.tolist() == [2 * area >= (far - left) * (low - top)]
    assert carried.objects.crowd.tolist() == ([2 * area < (far - left) * (low - top)] if area else [])


def test_enlarging_an_object_out_of_the_picture_counts_its_own_area_and_not_its_pixels():
    # Of 30 columns from the middle on, 15 stay in view when they are twice as wide: half of it; then a little less.
    for factor, wanted in ((2.0, True), (2.2, False)):
        (carried,) = carry([objects((30, 19, 60, 21))], moved(factor=factor))
        assert carried.in_view.tolist() == [wanted]


def test_a_crowd_stays_a_crowd_and_what_left_is_dropped():
    given_objects = objects((0, 0, 10, 10), (20, 10, 30, 20), (50, 30, 58, 38), crowd=[1])
    (carried,) = carry([given_objects], moved(right=-15))
    assert carried.number.tolist() == [1, 2]
    assert carried.objects.classes.tolist() == [1, 2]
    assert carried.objects.crowd.tolist() == [True, False]
    assert carried.in_view.tolist() == [False, False, True]
    still = stay(given_objects)
    assert still.in_view.tolist() == [True, False, True]
    assert still.number.tolist() == [0, 1, 2]


def test_an_image_without_objects_carries_none():
    (carried,) = carry([objects()], moved(right=3))
    assert len(carried.objects) == len(carried.number) == len(carried.in_view) == 0


def test_each_image_has_its_own_sources():
    one, other = moved(right=2), moved(right=5)
    both = Sources(torch.cat([one.down, other.down]), torch.cat([one.right, other.right]))
    box = objects((10, 10, 20, 20))
    assert [in_pixels(each) for each in carry([box, box], both)] == [[[12, 10, 22, 20]], [[15, 10, 25, 20]]]


def test_nothing_moves_under_the_identity():
    boxes = objects((0, 0, 60, 40), (3, 4, 30, 31))
    (carried,) = carry([boxes], identity(blank()))
    assert torch.allclose(carried.objects.boxes, boxes.boxes)


def test_a_traced_enlargement_is_the_enlargement():
    sources = traced(blank(2), lambda images: zoom(images, 1.5))
    for each in carry([objects((24, 14, 36, 26))] * 2, sources):
        assert in_pixels(each) == [[21, 11, 39, 29]]


@pytest.mark.parametrize("name", MOVING[:3])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_sightlines_are_those_of_the_distortion(name, strength):
    images = torch.rand(3, 3, 24, 30, generator=torch.Generator().manual_seed(0))
    streams = Streams.of(0, name, ["a", "b", "c"])
    points = sightlines(name, images, strength, streams, 2)
    assert torch.equal(seen(images, points), CAMERA[name](images, strength, streams, 2))


def test_the_sightlines_of_a_photograph_are_those_that_it_samples_at(monkeypatch):
    for step in ("_softened", "_lit", "_contrasted"):
        monkeypatch.setattr(shots, step, lambda images, strength, draws: images)
    monkeypatch.setattr(shots, "_grainy", lambda images, *rest: images)
    images = torch.rand(2, 3, 24, 30, generator=torch.Generator().manual_seed(0))
    streams = Streams.of(0, "photograph", ["a", "b"])
    points = sightlines("photograph", images, 3, streams, 1)
    assert torch.equal(seen(images, points), CAMERA["photograph"](images, 3, streams, 1))


def square(height=96, width=96, side=32):
    """A bright square of colours in the middle of a dark image, and its box."""
    images = torch.full((1, 3, height, width), 0.2)
    top, left = (height - side) // 2, (width - side) // 2
    images[:, :, top : top + side, left : left + side] = 0.6
    return images, (left, top, left + side, top + side)


def middle(before, after):
    """Where what was changed by a square lies on average, in pixels."""
    light = (after - before).double().sum(1)[0].clamp_min(0)
    rows, columns = torch.arange(light.shape[0]) + 0.5, torch.arange(light.shape[1]) + 0.5
    return [float((light.sum(1) * rows).sum() / light.sum()), float((light.sum(0) * columns).sum() / light.sum())]


@pytest.mark.parametrize("name", [name for name in CAMERA if name not in MOVING])
def test_a_distortion_of_a_camera_without_sightlines_leaves_an_object_where_it_is(name):
    images, _ = square()
    streams = Streams.of(0, name, ["a"])
    assert sightlines(name, images, 3, streams, 0) is None
    plain = CAMERA[name](torch.full_like(images, 0.2), 3, streams, 0)
    assert middle(plain, CAMERA[name](images, 3, streams, 0)) == pytest.approx([48, 48], abs=0.5)


def place(image, side=32, reach=4):
    """How far a square of brighter pixels is from the middle, by where it stands out most."""
    light, ((left, top, _, _)) = image.sum(0), square()[1]
    shifts = [(down, right) for down in range(-reach, reach + 1) for right in range(-reach, reach + 1)]
    return max(shifts, key=lambda at: float(light[top + at[0] :, left + at[1] :][:side, :side].mean()))


@pytest.mark.parametrize("name", [name for name in DISTORTIONS if name not in CARRIED | LEFT_OUT])
@pytest.mark.parametrize("severity", [1, 5])
def test_a_corruption_that_carries_no_boxes_leaves_an_object_where_it_is(name, severity):
    images, _ = square()
    streams = Streams.of(0, name, [f"{number}" for number in range(12)])
    corrupted = DISTORTIONS[name](images.repeat(12, 1, 1, 1), severity, streams)
    # The mean of some clouds is even; one alone is brighter on one side.
    assert max(map(abs, place(corrupted.mean(0)))) <= 1


def test_a_trail_carries_boxes_to_its_middle():
    """The reason for which boxes are carried: at severity 5 an object moves by far more than a pixel."""
    images, box = square()
    streams = Streams.of(0, "motion_blur", ["a"])

    def smear(pictures):
        return DISTORTIONS["motion_blur"](pictures, 5, streams)

    down, right = middle(smear(torch.full_like(images, 0.2)), smear(images))
    ((left, top, far, low),) = in_pixels(carry([objects(box, size=(96, 96))], traced(images, smear))[0], 96, 96)
    assert [(top + low) / 2, (left + far) / 2] == pytest.approx([down, right], abs=1)
    assert math.hypot(down - 48, right - 48) > 2
