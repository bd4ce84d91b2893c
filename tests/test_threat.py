"""The judge of distances: closed forms, and nothing gets past `allowed`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auditkit.threat import ThreatModel, allowed, distance

NORMS = ("linf", "l2", "l1", "l0", "area", "free")
CLEAN = torch.full((1, 3, 2, 2), 0.5)


def changed(**pixels):
    image = CLEAN.clone()
    for place, value in pixels.items():
        channel, row, column = map(int, place[1:])
        image[0, channel, row, column] += value
    return image


@pytest.mark.parametrize(
    ("norm", "wanted"),
    [("linf", 0.4), ("l2", 0.5), ("l1", 0.7), ("l0", 1.0), ("area", 0.25), ("free", 0.0)],
)
def test_distances_are_those_of_the_textbook(norm, wanted):
    two_channels_of_one_pixel = changed(p000=0.3, p100=-0.4)
    assert float(distance(norm, CLEAN, two_channels_of_one_pixel)) == pytest.approx(wanted)
    assert distance(norm, CLEAN, CLEAN).tolist() == [0.0]


def test_two_pixels_are_two_changes():
    image = changed(p000=0.1, p211=0.1)
    assert float(distance("l0", CLEAN, image)) == 2
    assert float(distance("area", CLEAN, image)) == 0.5


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1.5, -0.01])
def test_an_image_outside_the_range_is_never_allowed(norm, value):
    image = CLEAN.clone()
    image[0, 1, 1, 1] = value
    assert allowed(norm, 1e9, CLEAN, image).tolist() == [False]
    assert allowed(norm, 1e9, CLEAN, CLEAN).tolist() == [True]


BUDGETS = {"linf": 8 / 255, "l2": 0.5, "l1": 2.0}


@pytest.mark.parametrize("norm", list(BUDGETS))
def test_rounding_is_forgiven_and_a_thousandth_more_is_not(norm):
    direction = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    clean = torch.full_like(direction, 0.5)
    length = distance(norm, torch.zeros_like(direction), direction).view(-1, 1, 1, 1)
    edge = clean + direction / length * BUDGETS[norm]
    beyond = clean + direction / length * (BUDGETS[norm] * 1.001)
    assert allowed(norm, BUDGETS[norm], clean, edge).all()
    assert not allowed(norm, BUDGETS[norm], clean, beyond).any()


def test_one_pixel_more_than_the_budget_is_too_many():
    one, two = changed(p000=0.1), changed(p000=0.1, p011=0.1)
    assert allowed("l0", 1, CLEAN, one).tolist() == [True]
    assert allowed("l0", 1, CLEAN, two).tolist() == [False]
    assert allowed("area", 0.25, CLEAN, one).tolist() == [True]
    assert allowed("area", 0.25, CLEAN, two).tolist() == [False]


def test_each_row_has_its_own_budget():
    clean = CLEAN.repeat(3, 1, 1, 1)
    attacked = clean + 0.1
    eps = torch.tensor([0.05, 0.1, 0.2])
    assert allowed("linf", eps, clean, attacked).tolist() == [False, True, True]


@settings(deadline=None, max_examples=50)
@given(norm=st.sampled_from(NORMS[:-1]), seed=st.integers(0, 999), eps=st.floats(0, 3))
def test_what_a_budget_allows_a_larger_one_allows(norm, seed, eps):
    generator = torch.Generator().manual_seed(seed)
    clean, attacked = torch.rand(2, 4, 3, 3, 3, generator=generator)
    smaller, larger = allowed(norm, eps, clean, attacked), allowed(norm, eps * 1.5, clean, attacked)
    assert (larger | ~smaller).all()
    assert torch.equal(allowed(norm, distance(norm, clean, attacked), clean, attacked), torch.ones(4) > 0)


@pytest.mark.parametrize("norm", NORMS)
def test_every_threat_model_can_be_said_in_words(norm):
    text = ThreatModel(norm, 8 / 255).describe()
    assert text.startswith(f"{norm}: ")
    assert {"free": "any image", "area": "3.14 %"}.get(norm, "8/255") in text
