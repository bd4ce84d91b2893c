"""Stickers: what they look like, where they may be, what is kept, and what they can fool."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auditkit.errors import ExecutionError, UsageError
from auditkit.plan import configure
from auditkit.samples import Samples
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_samples
from auditkit_plugins.sticker import Sticker

SHAPE = (3, 12, 9)
NETWORK = LinearModel(classes=3, shape=SHAPE, seed=4)
SAMPLES = toy_samples(12, seed=5, shape=SHAPE, network=NETWORK)
SIDE = (3 / 9,)


@pytest.fixture(scope="module")
def model():
    return toy_model(NETWORK, SAMPLES.images)


class Corner(nn.Module):
    """Names class 1 when a light patch lies in the last corner and a dark one in the first, else class 0."""

    def forward(self, images):
        light = images[:, :, -2:, -2:].mean((1, 2, 3))
        dark = 1 - images[:, :, :2, :2].mean((1, 2, 3))
        score = light + dark
        return torch.stack([torch.full_like(score, 1.8), score], 1)


def grey_images(n=6, shape=SHAPE):
    images = torch.full((n, *shape), 0.5) + 0.001 * torch.arange(n).view(-1, 1, 1, 1)
    return Samples(images, torch.zeros(n, dtype=torch.int64), tuple(f"grey{row}" for row in range(n)))


def painted(clean, columns, row, attack):
    """Return the image that the marks of a sample describe, painted by other code than the attack's."""
    image = clean.clone()
    for kind, value, count in (("light", 1.0, attack.light), ("dark", 0.0, attack.dark)):
        for number in range(count):
            top, left, height, width = (
                int(columns[f"{kind}{number + 1}_{part}"][row]) for part in ("top", "left", "height", "width")
            )
            image[:, top : top + height, left : left + width] = value
    return image


@pytest.mark.parametrize(
    "options",
    [
        {**Sticker.spec.presets["smoke"], "queries": 12},
        {"queries": 12, "composition": "add", "strength": 0.4, "restarts": 2},
        {"queries": 12, "success": "strongest", "side": (0.2, *SIDE), "guided": True},
        {"queries": 12, "dark": 0, "on_object": True},
    ],
)
def test_it_keeps_the_contract(options):
    assert_contract(Sticker, options={"side": SIDE, **options}, network=NETWORK, samples=SAMPLES)


def test_it_finds_the_two_places_that_matter():
    samples = grey_images()
    findings = run_check(
        Sticker(light=1, dark=1, side=SIDE, queries=1500), toy_model(Corner(), samples.images), samples
    )
    assert findings.columns["fooled"].all()
    for part, light, dark in (("top", SHAPE[1] - 3, 0), ("left", SHAPE[2] - 3, 0)):
        assert (findings.columns[f"light1_{part}"] >= light).all()
        assert (findings.columns[f"dark1_{part}"] == dark).all()


@pytest.mark.parametrize("success", ["first", "strongest"])
@pytest.mark.parametrize("counts", [(2, 2), (1, 0), (0, 3)])
def test_the_marks_describe_the_attacked_image_exactly(model, counts, success):
    attack = Sticker(light=counts[0], dark=counts[1], side=SIDE, queries=60, success=success)
    findings = run_check(attack, model, SAMPLES)
    found = findings.columns["found"].nonzero()[0]
    assert len(found) >= 2
    for image, row in zip(findings.attacked, found, strict=True):
        wanted = painted(SAMPLES.images[row], findings.columns, row, attack)
        np.testing.assert_allclose(image / 65535, wanted, atol=1e-5)


def test_no_sticker_is_longer_than_allowed_or_leaves_the_image(model):
    findings = run_check(Sticker(side=SIDE, queries=40, success="strongest"), model, SAMPLES)
    found = findings.columns["found"]
    assert found.any()
    for name in ("light1", "light2", "dark1", "dark2"):
        top, left, height, width = (
            findings.columns[f"{name}_{part}"][found] for part in ("top", "left", "height", "width")
        )
        assert ((height >= 1) & (height <= 3) & (width >= 1) & (width <= 3)).all()
        assert ((top >= 0) & (top + height <= SHAPE[1]) & (left >= 0) & (left + width <= SHAPE[2])).all()
    assert (findings.columns["distance"][found] <= 4 * 9 / (SHAPE[1] * SHAPE[2]) + 1e-6).all()
    assert not findings.columns["overstepped"].any()


def test_the_strongest_set_has_a_larger_margin_than_the_first(model):
    margins = {}
    for success in ("first", "strongest"):
        findings = run_check(Sticker(side=SIDE, queries=200, success=success), model, SAMPLES)
        images = torch.from_numpy(findings.attacked.astype(np.float32) / 65535)
        found = findings.columns["found"]
        scores = NETWORK(images).detach()
        own = scores.gather(1, SAMPLES.labels[torch.from_numpy(found)].unsqueeze(1)).squeeze(1)
        margins[success] = dict(zip(found.nonzero()[0].tolist(), (own - scores.amax(1)).tolist(), strict=True))
        if success == "strongest":
            assert (findings.columns["steps"][found] == 200).all()
    assert margins["strongest"].keys() >= margins["first"].keys()
    assert all(margins["strongest"][row] <= margins["first"][row] + 1e-4 for row in margins["first"])
    assert sum(margins["strongest"][row] < margins["first"][row] - 1 for row in margins["first"]) >= 3


def test_stickers_stay_on_the_object():
    masks = torch.zeros((len(SAMPLES), *SHAPE[1:]), dtype=torch.bool)
    masks[:, 3:9, 2:7] = True
    samples = Samples(SAMPLES.images, SAMPLES.labels, SAMPLES.ids, masks)
    findings = run_check(Sticker(side=SIDE, queries=80, on_object=True), toy_model(NETWORK, samples.images), samples)
    found = torch.from_numpy(findings.columns["found"])
    assert found.any()
    changed = torch.from_numpy(findings.attacked.astype(np.float32) / 65535) - samples.images[found]
    assert changed.abs().amax(1)[~masks[found]].max() < 1e-4


def test_added_stickers_of_half_strength_shift_what_is_below_them(model):
    findings = run_check(Sticker(side=SIDE, queries=100, composition="add", strength=0.3), model, SAMPLES)
    found = torch.from_numpy(findings.columns["found"])
    changed = torch.from_numpy(findings.attacked.astype(np.float32) / 65535) - SAMPLES.images[found]
    assert found.any()
    # Two stickers of one kind may overlap, never more.
    assert changed.abs().max() <= 0.6 + 1e-4
    once = (changed.abs() - 0.3).abs() < 1e-4
    assert once.any()


def test_aim_beats_chance(model):
    """A control that fooled as often as the search would mean that the search aims at nothing."""
    columns = run_check(Sticker(side=SIDE, queries=200), model, SAMPLES).columns
    assert columns["fooled_by_chance"].sum() < columns["fooled"].sum()


def test_the_gradient_helps_to_begin(model):
    """With three queries only, good places must come from the gradient."""
    plain, guided = (
        run_check(Sticker(light=1, dark=1, side=SIDE, queries=3, guided=guided), model, SAMPLES)
        for guided in (False, True)
    )
    assert guided.columns["fooled"].sum() >= plain.columns["fooled"].sum()
    assert (guided.backwards[guided.columns["clean_correct"]] == 1).all()


def test_without_stickers_there_is_nothing_to_search():
    with pytest.raises(ValueError, match="at least one"):
        Sticker(light=0, dark=0)
    with pytest.raises(UsageError, match=r"^patch\.sticker: at least one light or dark sticker is needed$"):
        configure(Sticker, {"light": 0, "dark": 0}, "patch.sticker", "here")


def test_a_sticker_smaller_than_a_pixel_is_refused(model):
    with pytest.raises(ExecutionError, match=r"side of 0\.1 is less than one pixel of images 9 pixels wide"):
        run_check(Sticker(side=(0.1,)), model, SAMPLES)


@settings(max_examples=6, deadline=None)
@given(batch=st.sampled_from([1, 7, 64]), seed=st.integers(0, 3), guided=st.booleans(), strongest=st.booleans())
def test_the_batch_changes_nothing(model, batch, seed, guided, strongest):
    attack = Sticker(side=SIDE, queries=25, guided=guided, success="strongest" if strongest else "first")
    one, other = (run_check(attack, model, SAMPLES, batch=size, seed=seed) for size in (batch, 12))
    for name, column in one.columns.items():
        np.testing.assert_array_equal(column, other.columns[name], err_msg=name)
    np.testing.assert_array_equal(one.attacked, other.attacked)


def test_a_search_does_not_depend_on_its_company(model):
    columns = run_check(Sticker(side=SIDE, queries=25), model, SAMPLES).columns
    rows = [7, 2, 9]
    some = run_check(Sticker(side=SIDE, queries=25), model, replace(SAMPLES).take(rows)).columns
    for name, column in some.items():
        np.testing.assert_array_equal(column, columns[name][rows], err_msg=name)
