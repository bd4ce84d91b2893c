"""Natural transformations: within their ranges, as good as an exhaustive search, and the smallest that fools."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from auditkit.config import settings_from
from auditkit.errors import UsageError
from auditkit.findings import metrics
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.samples import Samples
from auditkit.testing import LinearModel, assert_contract, run_check, toy_model, toy_origin, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins import space, space_search
from auditkit_plugins.camera.knobs import KNOBS, transformed
from auditkit_plugins.space import Space
from auditkit_plugins.space_search import SpaceSearch

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
NOTHING = {"turn": 0, "shift": 0, "zoom": 1, "brightness": 1, "contrast": 1, "hue": 0, "blur": 0}


def only(**chosen):
    return {**NOTHING, **chosen}


class Bright(nn.Module):
    """Class 1 where the mean of the image lies above a threshold."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, images):
        above = 100 * (images.flatten(1).mean(1) - self.threshold)
        return torch.stack([-above, above], 1)


class Leaning(nn.Module):
    """Class 1 where more light falls on the right half."""

    def forward(self, images):
        half = images.shape[3] // 2
        lean = images[..., half:].mean((1, 2, 3)) - images[..., :half].mean((1, 2, 3))
        return torch.stack([-lean, lean], 1)


def plain(values, shape=(1, 8, 8)):
    images = torch.tensor(values).view(-1, 1, 1, 1).expand(-1, *shape).contiguous()
    return Samples(images, torch.zeros(len(values), dtype=torch.int64), tuple(f"plain-{v}" for v in values))


def blobs(offsets, side=32):
    """Return bright spots left of the middle, by so many pixels."""
    columns = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    rows = torch.exp(-0.5 * (columns / 2).square())
    images = torch.stack([rows.view(-1, 1) * torch.exp(-0.5 * ((columns + away) / 2).square()) for away in offsets])
    return Samples(images.unsqueeze(1), torch.zeros(len(offsets), dtype=torch.int64), tuple(map(str, offsets)))


def names_only(findings):
    return {name: findings.columns[name] for name in KNOBS}


@pytest.mark.parametrize("preset", ["smoke", "standard", "full"])
def test_every_preset_keeps_the_contract(preset):
    assert_contract(Space, options={**Space.spec.presets[preset], "queries": 48, "shrinking": 24})


def test_it_takes_grey_images_that_are_not_square():
    network = LinearModel(classes=2, shape=(1, 8, 14), seed=1)
    samples = toy_samples(7, shape=(1, 8, 14), network=network, wrong_every=4)
    assert_contract(Space(queries=40, shrinking=16), network=network, samples=samples)


def test_the_least_light_that_fools_is_found_and_no_image_falls_that_cannot():
    """A plain image of value v passes the threshold t with t / v times the light."""
    values, threshold, most = (0.31, 0.37, 0.44, 0.5, 0.55, 0.59), 0.6, 1.5
    samples = plain(values)
    check = Space(**only(brightness=most), queries=40, shrinking=160)
    columns = run_check(check, toy_model(Bright(threshold), samples.images), samples).columns
    needed = np.log(threshold / np.array(values)) / math.log(most)
    np.testing.assert_array_equal(columns["fooled"], needed < 1)
    assert (columns["fooled"]).sum() == 4
    fooled = columns["fooled"]
    assert (columns["smallest"][fooled] >= needed[fooled] * 0.9999).all()
    assert (columns["smallest"][fooled] <= needed[fooled] * 1.02 + 0.002).all()
    np.testing.assert_allclose(columns["smallest_brightness"][fooled], most ** columns["smallest"][fooled], rtol=1e-5)
    assert np.isnan(columns["smallest"][~fooled]).all()


def test_light_and_contrast_together_do_what_neither_does_alone():
    samples = plain((0.5,))
    model = toy_model(Bright(0.62), samples.images)
    alone = [only(brightness=1.2), only(contrast=1.6)]
    assert [run_check(Space(**ranges), model, samples).columns["fooled"][0] for ranges in alone] == [False, False]
    both = run_check(Space(**only(brightness=1.2, contrast=1.6), shrinking=400), model, samples).columns
    assert both["fooled"][0]
    # (0.5 * 1.2 ** s - 0.5) * 1.6 ** s + 0.5 is 0.62 at the smallest s of the two together.
    size = np.linspace(0, 1, 100_001)
    needed = size[((0.5 * 1.2**size - 0.5) * 1.6**size + 0.5 > 0.62).argmax()]
    assert 0.999 * needed <= both["smallest"][0] <= 1.05 * needed


def test_the_least_shift_is_the_one_that_brings_the_spot_over_the_middle():
    offsets = (0.4, 1.0, 1.7, 2.4, 4.0)
    samples = blobs(offsets)
    check = Space(**only(shift=0.1), shrinking=200)
    columns = run_check(check, toy_model(Leaning(), samples.images), samples).columns
    fooled = np.array(offsets) < 3.2
    np.testing.assert_array_equal(columns["fooled"], fooled)
    np.testing.assert_allclose(columns["smallest_right"][fooled] * 32, np.array(offsets)[fooled], atol=0.06)


def test_the_search_fools_what_a_dense_grid_fools_on_a_linear_model():
    network = LinearModel(classes=3, seed=2)
    samples = toy_samples(40, seed=5, network=network, wrong_every=99)
    check = Space(**only(turn=4, shift=0.02, brightness=1.02), queries=400, shrinking=0)
    columns = run_check(check, toy_model(network, samples.images), samples).columns
    by_grid = np.zeros(len(samples), dtype=bool)
    levels = torch.linspace(-1, 1, 7).tolist()
    for turn, right, down, light in itertools.product(levels, levels, levels, (-1.0, 0.0, 1.0)):
        setting = torch.tensor([turn, right, down, 0.0, light, 0.0, 0.0, 0.0]).expand(len(samples), -1)
        with torch.no_grad():
            said = network(transformed(samples.images, setting, check.ranges)).argmax(1)
        by_grid |= (said != samples.labels).numpy()
    assert 3 < by_grid.sum() < len(samples)
    assert (columns["fooled"] & by_grid).sum() >= by_grid.sum() - 1


def test_what_is_reported_fools_and_lies_within_the_ranges():
    network = LinearModel(classes=3, seed=2)
    samples = toy_samples(20, seed=5, network=network, wrong_every=5)
    check = Space(turn=10, shift=0.05, blur=0.1, queries=80, shrinking=40)
    columns = run_check(check, toy_model(network, samples.images), samples).columns
    fooled = columns["fooled"]
    assert fooled.any()
    for prefix in ("", "smallest_"):
        limits = {"turn": 10, "right": 0.05, "down": 0.05, "hue": 20}
        for name, limit in limits.items():
            assert (np.abs(columns[prefix + name][fooled]) <= limit * 1.00001).all()
        for name, limit in {"zoom": 1.2, "brightness": 1.5, "contrast": 1.5}.items():
            assert (np.abs(np.log(columns[prefix + name][fooled])) <= math.log(limit) * 1.00001).all()
        assert (columns[prefix + "blur"][fooled] >= 0).all()
        assert (columns[prefix + "blur"][fooled] <= 0.1 * 1.00001).all()
    assert (columns["smallest"][fooled] <= columns["size"][fooled]).all()
    ranges = check.ranges
    shares = np.stack(
        [
            columns["smallest_turn"] / 10,
            columns["smallest_right"] / 0.05,
            columns["smallest_down"] / 0.05,
            *(np.log(columns[f"smallest_{name}"]) / math.log(getattr(ranges, name)) for name in KNOBS[3:6]),
            columns["smallest_hue"] / 20,
            columns["smallest_blur"] / 0.1,
        ],
        1,
    )
    again = transformed(samples.images[fooled], torch.from_numpy(shares[fooled]).float(), ranges)
    with torch.no_grad():
        wrong = network(again).argmax(1) != samples.labels[fooled]
    # What lies on the boundary may fall back by the rounding of the columns.
    assert wrong.float().mean() > 0.7
    np.testing.assert_allclose(np.abs(shares[fooled]).max(1), columns["smallest"][fooled], rtol=1e-4)


@pytest.mark.parametrize("eps", [0.3, 1.0])
def test_no_candidate_leaves_the_budget_and_grey_images_have_no_hue(eps, monkeypatch):
    seen = []

    def spy(images, knobs, ranges):
        seen.append(knobs)
        return transformed(images, knobs, ranges)

    for module in (space, space_search):
        monkeypatch.setattr(module, "transformed", spy)
    network = LinearModel(classes=2, shape=(1, 8, 8), seed=1)
    samples = toy_samples(12, shape=(1, 8, 8), network=network)
    run_check(Space(eps=(eps,), queries=100, shrinking=40), toy_model(network, samples.images), samples)
    asked = torch.cat(seen)
    assert float(asked.abs().max()) == pytest.approx(eps)
    assert float(asked.abs().max()) <= eps * (1 + 1e-6)
    assert asked[:, KNOBS.index("hue")].eq(0).all()
    assert asked[:, KNOBS.index("blur")].min() >= 0
    assert asked[:, KNOBS.index("turn")].min() < -0.9 * eps


def test_each_knob_is_tried_alone_at_both_ends_first():
    attack = SpaceSearch((0.5,), Space().ranges, 400)
    samples = toy_samples(3)
    asked = []

    class Recorder:
        def logits(self, images, marks):
            asked.append(marks)
            return torch.tensor([[1.0, 0.0]]).expand(len(images), 2)

    state = attack.start(toy_origin(attack, toy_model(LinearModel(), samples.images), samples, 0.5))
    for _ in range(4):
        state = attack.step(Recorder(), state)
    grid = torch.stack(asked).view(4, 3, 8, 8)[:, 0].flatten(0, 1)
    assert ((grid != 0).sum(1) == 1).all()
    for knob in range(7):
        assert sorted(grid[:, knob][grid[:, knob] != 0].tolist()) == [-0.5, -0.25, 0.25, 0.5]


def test_a_random_transformation_is_weaker_and_uses_the_ranges():
    network = LinearModel(classes=3, seed=2)
    samples = toy_samples(60, seed=5, network=network, wrong_every=99)
    check = Space(**only(turn=4, shift=0.02, brightness=1.02), queries=120, shrinking=0)
    found, _ = metrics(check.spec, run_check(check, toy_model(network, samples.images), samples).columns)
    assert 0 < found["control_success_rate"].value < found["attack_success_rate"].value


def test_several_budgets_are_read_off_the_smallest_success():
    samples = plain((0.44, 0.5, 0.55, 0.59))
    check = Space(eps=(0.25, 0.5, 1.0), **only(brightness=1.5), shrinking=160)
    columns = run_check(check, toy_model(Bright(0.6), samples.images), samples).columns
    assert columns["fooled@0.25"].tolist() == [False, False, True, True]
    assert columns["fooled@0.5"].tolist() == [False, True, True, True]
    assert columns["fooled@1"].tolist() == [True] * 4
    assert columns["robust@0.25"].tolist() == [True, True, False, False]


def test_queries_are_counted_and_never_more_than_asked_for():
    samples = plain((0.1, 0.59, 0.9))
    check = Space(**only(brightness=1.5), queries=80, shrinking=40)
    forwards = run_check(check, toy_model(Bright(0.6), samples.images), samples).forwards
    assert forwards[0] == 1 + 80 + 1, "clean, all queries, and the verdict"
    assert forwards[1] <= 1 + 8 * 5 + 1 + 2 + 1 + 40
    assert forwards[2] == 1, "wrong from the start"


def test_the_gallery_tells_what_was_done():
    samples = plain((0.55, 0.5))
    findings = run_check(Space(**only(brightness=1.5)), toy_model(Bright(0.6), samples.images), samples)
    first, second = findings.exhibits
    assert first.sample == "plain-0.55"
    assert first.caption == "class 0 is taken for class 1: lit 1.09 times"
    assert second.caption == "class 0 is taken for class 1: lit 1.20 times"
    assert int(first.panels[1].array.mean()) == pytest.approx(0.6 * 255, abs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"eps": 1.5}, "share of every range"), ({"eps": 0}, "share of every range"), (NOTHING, "needs a range")],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        configure(Space, options, "physical.space", "test")


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 100), shape=st.sampled_from([(1, 4, 8), (3, 8, 6)]), queries=st.integers(30, 90))
def test_a_sample_gets_the_same_result_in_any_batch(seed, shape, queries):
    network = LinearModel(classes=3, shape=shape, seed=seed)
    samples = toy_samples(10, seed=seed, shape=shape, network=network)
    model = toy_model(network, samples.images)
    check = Space(eps=(0.2, 0.8), queries=queries, shrinking=32)
    wanted, *others = (run_check(check, model, samples, batch=batch) for batch in (64, 1, 7))
    for other in others:
        np.testing.assert_array_equal(other.forwards, wanted.forwards)
        for name, column in wanted.columns.items():
            np.testing.assert_array_equal(other.columns[name], column)


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"NO REAL MODELS: {CIFAR} is absent")
def test_a_resnet_falls_to_a_rotation_that_was_searched_and_less_to_a_random_one():
    bench = set_up(
        Recipe(
            str(CIFAR / "resnet20.onnx"),
            str(CIFAR / "images_600.npz"),
            settings_from({"limit": 24, "batch": 32, "device": "cpu", "precision": "float32"}),
        )
    )
    samples = bench.read(0, 24).samples
    check = Space(queries=80, shrinking=40)
    found, _ = metrics(check.spec, run_check(check, bench.model, samples).columns)
    assert found["attack_success_rate"].value > 0.7
    assert found["control_success_rate"].value < found["attack_success_rate"].value - 0.2
    assert found["median_size"].value < 0.9
