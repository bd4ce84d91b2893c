"""The universal patch: the best colours where a formula knows them, judged on other images, beside plain covering."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from auditkit.config import settings_from
from auditkit.errors import ExecutionError
from auditkit.findings import metrics
from auditkit.plan import configure
from auditkit.preparing import set_up
from auditkit.samples import Samples
from auditkit.streams import Streams
from auditkit.testing import LinearModel, assert_contract, run_check, run_learn, toy_model, toy_samples
from auditkit.workbench import Recipe
from auditkit_plugins.printable import non_printability
from auditkit_plugins.universal_patch import UniversalPatch
from auditkit_plugins.universal_patch_training import Transforms

CIFAR = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"
SETTINGS = {"steps": 40, "mini_batch": 16, "area": (0.2,)}


class Tint(nn.Module):
    """Names the channel that is brightest on the whole, wherever it is bright."""

    def forward(self, images):
        return 20 * images.mean((2, 3))


class Corner(nn.Module):
    """Names the channel that is brightest in the lower left quarter of the image."""

    def forward(self, images):
        return 20 * images[:, :, 6:, :6].mean((2, 3))


@pytest.fixture(scope="module")
def samples():
    return toy_samples(80, seed=2, shape=(3, 12, 12), network=Tint(), wrong_every=10)


@pytest.fixture(scope="module")
def model(samples):
    return toy_model(Tint(), samples.images[:16])


def learned_and_judged(check, model, samples, **context):
    middle = len(samples) // 2
    training, judged = samples.take(range(middle)), samples.take(range(middle, len(samples)))
    lesson = run_learn(check, model, training, **context)
    return lesson, judged, run_check(check, model, judged, lesson=lesson, **context)


def value(check, findings, name):
    return metrics(check.spec, findings.columns)[0][name].value


@pytest.mark.parametrize("target", [0, 1, 2])
def test_against_a_network_that_sees_tint_the_patch_takes_the_purest_tint(model, samples, target):
    check = UniversalPatch(target=target, **SETTINGS)
    lesson, judged, findings = learned_and_judged(check, model, samples)
    pure = torch.zeros(3)
    pure[target] = 1
    np.testing.assert_allclose(lesson["patch@0.2"].mean((1, 2)), pure, atol=0.05)
    assert value(check, findings, "attack_success_rate") == 1.0
    aimed_at = findings.columns["clean_correct"] & (judged.labels != target).numpy()
    np.testing.assert_array_equal(findings.columns["aimed_at"], aimed_at)


def test_without_a_target_it_finds_the_class_that_serves_most_images(model, samples):
    """Most images are of classes 0 and 1; a patch that stands for 2 fools all of those."""
    rare = samples.labels == 2
    rows = torch.cat([(~rare).nonzero().flatten(), rare.nonzero().flatten()[:4]]).sort().values
    check = UniversalPatch(**SETTINGS)
    lesson, judged, findings = learned_and_judged(check, model, samples.take(rows))
    assert int(lesson["dominant@0.2"]) == 2
    assert value(check, findings, "attack_success_rate") > 0.85
    fooled = findings.columns["fooled@0.2"][findings.columns["clean_correct"]]
    of_others = (judged.labels != 2).numpy()[findings.columns["clean_correct"]]
    assert (fooled[of_others] == 1).all()


def test_the_controls_are_weaker_than_aim_and_alive(model, samples):
    check = UniversalPatch(**SETTINGS)
    _, _, findings = learned_and_judged(check, model, samples)
    reached = value(check, findings, "attack_success_rate")
    assert reached > 0.5
    assert value(check, findings, "plain_success_rate") < 0.5 * reached
    assert 0 < value(check, findings, "noise_success_rate") < reached


def test_success_is_a_share_of_the_placings_and_robust_is_right_in_all_of_them(model, samples):
    check = UniversalPatch(area=(0.03,), steps=4, draws=5)
    _, _, findings = learned_and_judged(check, model, samples)
    columns, correct = findings.columns, findings.columns["clean_correct"]
    fooled = columns["fooled@0.03"]
    np.testing.assert_allclose((fooled * 5) % 1, 0, atol=1e-9)
    np.testing.assert_array_equal(columns["robust@0.03"], correct & (fooled == 0))
    assert (findings.forwards == 1 + 3 * 5).all()
    assert not findings.backwards.any()


def test_a_larger_patch_fools_more_and_each_area_has_its_own(model, samples):
    check = UniversalPatch(**{**SETTINGS, "area": (0.01, 0.3)})
    lesson, _, findings = learned_and_judged(check, model, samples)
    assert lesson["patch@0.01"].shape < lesson["patch@0.3"].shape
    assert findings.columns["fooled@0.01"].mean() < findings.columns["fooled@0.3"].mean()


def test_printable_patches_are_nearer_to_ink(model, samples):
    scores = []
    for weight in (0.0, 5.0):
        check = UniversalPatch(target=1, printability=weight, **SETTINGS)
        patch = torch.from_numpy(learned_and_judged(check, model, samples)[0]["patch@0.2"])
        scores.append(float(non_printability(patch.unsqueeze(0))))
    assert scores[1] < 0.5 * scores[0]


@pytest.fixture(scope="module")
def cornered():
    """What comes of a patch that lies anywhere, and of one at the best place, where one corner alone is seen."""
    samples = toy_samples(80, seed=3, shape=(3, 12, 12), network=Corner(), wrong_every=10)
    model = toy_model(Corner(), samples.images[:16])
    outcomes = {}
    for place in ("anywhere", "best"):
        check = UniversalPatch(area=(0.06,), target=1, steps=40, mini_batch=16, place=place)
        outcomes[place] = (check, *learned_and_judged(check, model, samples))
    return outcomes


def test_the_best_place_is_where_the_network_looks(cornered):
    reached = {}
    for place, (check, lesson, _, findings) in cornered.items():
        assert ("place@0.06" in lesson) == (place == "best")
        reached[place] = value(check, findings, "attack_success_rate")
    down, across = cornered["best"][1]["place@0.06"]
    assert 0.6 < down <= 1
    assert 0 <= across < 0.4
    assert reached["best"] > 0.9
    assert reached["anywhere"] < 0.5


def test_the_controls_lie_where_the_patch_lies(cornered):
    noise = {place: value(check, findings, "noise_success_rate") for place, (check, _, _, findings) in cornered.items()}
    assert noise["best"] > 2 * noise["anywhere"] > 0
    for exhibit in cornered["best"][3].exhibits:
        clean, attacked = (panel.array.astype(int) for panel in exhibit.panels[:2])
        rows, columns = (clean != attacked).any(2).nonzero()
        assert rows.min() > 4
        assert columns.max() < 7


def test_the_best_place_is_sought_no_further_from_the_middle_than_spread_says():
    samples = toy_samples(40, seed=3, shape=(3, 12, 12), network=Corner(), wrong_every=10)
    model = toy_model(Corner(), samples.images[:16])
    check = UniversalPatch(area=(0.06,), target=1, steps=8, mini_batch=8, place="best", spread=0.2)
    down, across = run_learn(check, model, samples)["place@0.06"]
    assert 0.5 < down <= 0.6
    assert 0.4 <= across < 0.5


@pytest.mark.parametrize("shape", ["circle", "square"])
def test_a_patch_that_is_stuck_to_an_edge_moves_a_little_and_stays_inside(shape):
    images = torch.zeros(200, 3, 20, 40)
    streams = Streams.of(0, "test", [str(row) for row in range(len(images))])
    where = Transforms(0.05, shape, turn=0.4, shrink=0.1, light=0.2, spread=0.0, place=(0.0, 0.5)).drawn(
        streams, 0, images
    )
    turned = 1 if shape == "circle" else where.angle.cos().abs() + where.angle.sin().abs()
    gap = where.down - where.side / 2 * turned
    assert (gap >= -1e-4).all()
    assert 0 < gap.max() <= 0.05 * 20
    off = (where.across - 20).abs()
    assert 0.02 * 40 < off.max() <= 0.05 * 40


@pytest.mark.parametrize("place", ["anywhere", "best"])
def test_the_order_of_the_training_images_does_not_matter(model, samples, place):
    check = UniversalPatch(area=(0.1,), steps=5, mini_batch=8, place=place)
    one = run_learn(check, model, samples)
    turned = run_learn(check, model, samples.take(range(len(samples))[::-1]))
    for name, array in one.items():
        np.testing.assert_array_equal(array, turned[name])


@pytest.mark.parametrize("shape", ["circle", "square"])
def test_the_gallery_holds_the_patch_on_white_paper_large_enough_to_print(model, samples, shape):
    check = UniversalPatch(**SETTINGS, shape=shape)
    _, judged, findings = learned_and_judged(check, model, samples)
    assert 0 < len(findings.exhibits) <= 8
    for exhibit in findings.exhibits:
        row = judged.ids.index(exhibit.sample)
        assert findings.columns["aimed_at"][row]
        clean, attacked, patch = (panel.array for panel in exhibit.panels)
        assert (clean != attacked).any()
        assert patch.shape == (256, 256, 3)
        assert (patch[0, 0] == 255).all() == (shape == "circle")


def test_grey_images_and_training_on_one_image_work():
    class Darkness(nn.Module):
        def forward(self, images):
            mean = 20 * images.mean((1, 2, 3)).unsqueeze(1)
            return torch.cat([mean, 20 - mean], 1)

    samples = toy_samples(9, shape=(1, 6, 9), network=Darkness(), wrong_every=5)
    model = toy_model(Darkness(), samples.images)
    check = UniversalPatch(area=(0.3,), steps=3, draws=2, printability=0.1)
    lesson = run_learn(check, model, samples.take([0]))
    run_check(check, model, samples.take(range(1, 9)), lesson=lesson)


def test_a_target_that_is_no_class_is_refused_in_one_line(model, samples):
    with pytest.raises(ExecutionError, match="target is one of the 3 classes from 0; got 7"):
        run_learn(UniversalPatch(target=7), model, samples)
    with pytest.raises(Exception, match="larger than 0 and at most 1"):
        configure(UniversalPatch, {"area": 1.5}, "patch.universal", "here")


@pytest.mark.parametrize("preset", ["standard", "full"])
def test_the_check_keeps_the_contract(preset):
    options = {**UniversalPatch.spec.presets[preset], "steps": 3, "mini_batch": 3, "draws": 2}
    assert_contract(UniversalPatch, options=options)
    chosen = {"area": "0.1, 0.5", "shape": "circle", "target": 1, "printability": 0.1, "steps": 3, "draws": 1}
    assert_contract(UniversalPatch, options={**chosen, "place": "best"}, network=LinearModel(classes=2))


@pytest.mark.skipif(not CIFAR.is_dir(), reason=f"NO REAL MODELS: {CIFAR} is absent")
def test_a_short_training_against_a_trained_network_beats_plain_covering():
    bench = set_up(Recipe(str(CIFAR / "resnet20.onnx"), str(CIFAR / "images_600.npz"), settings_from({"limit": 120})))
    read = bench.read(0, 120).samples
    samples = Samples(read.images, read.labels, read.ids)
    check = UniversalPatch(area=(0.15,), target=5, steps=50, mini_batch=16, draws=2)
    _, _, findings = learned_and_judged(check, bench.model, samples)
    reached = value(check, findings, "attack_success_rate")
    assert reached > 0.3
    assert reached > 2 * value(check, findings, "plain_success_rate")
    assert reached > 2 * value(check, findings, "noise_success_rate")
